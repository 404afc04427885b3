"""What the engine's own kernels take of a model, as sizes and options tell: without the library."""

from __future__ import annotations

import torch

from .attention.attention_names import AUTO, PACKED
from .packed_cache import DTYPES, LARGEST_HEAD

BITSANDBYTES = "bitsandbytes"
"""Of the ways that checkpoints may be quantized by, the one whose layers the kernels take."""


def why_not_wanted(compile_mode: str, attention: str) -> str:
    """One sentence why an engine with these options records nothing; nothing where it may."""
    if attention not in (AUTO, PACKED):
        return f"attention {attention} was asked for"
    return "compilation is switched off" if compile_mode == "off" else ""


def why_unfit(device: str, whole: bool, dtype: torch.dtype, head_dim: int) -> str:
    """One sentence why the kernels cannot run a model, whatever its weights are.

    `device` is a type, for example "cpu"; `whole` is false for a rank's share.
    """
    if device != "cpu":
        return "the kernels are for CPUs"
    if not whole:
        return "the kernels take whole models, not a rank's share"
    if dtype not in DTYPES:
        return f"the kernels do not take weights in {str(dtype).removeprefix('torch.')}"
    if head_dim > LARGEST_HEAD:
        return f"the kernels do not take heads of {head_dim}"
    return ""
