"""The attention kernels by name: which there are on a machine, and which one runs.

Knows nothing of the library; `attention_choice.py` chooses among the kernels for its models.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from ...core.errors import StartupError
from ..cpp_compiler import cpp_compiler
from .attention_kernels import FLASH, FLEX

AUTO = "auto"
PACKED = "packed"
"""The engine's own kernel, for steps that are recorded: `program/recording.py`."""
SDPA = "sdpa"
ON_CUDA = (FLASH, "efficient")


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The kernel that runs, and the sentence that says why."""

    kernel: str
    note: str


def check_attention(wanted: str, device: str) -> None:
    """Raises StartupError for a kernel that this machine lacks. `device` is a type, for example "cpu"."""
    missing = missing_for(wanted, device)
    if missing:
        raise StartupError(f"attention {wanted} cannot run: {missing}")


def missing_for(kernel: str, device: str) -> str:
    """What a machine lacks to run a kernel on a device, and what to do; nothing where it can."""
    if kernel in ON_CUDA and device != "cuda":
        return f"it needs a CUDA device, and the model is on {device}; use sdpa there"
    if kernel == FLASH and find_spec("flash_attn") is None:
        return "it needs the package flash-attn; pip install flash-attn, or use sdpa"
    if kernel == FLEX and device == "cpu" and not cpp_compiler():
        return "it needs a C++ compiler; install g++, or use sdpa"
    if kernel == PACKED and device != "cpu":
        return f"it needs a CPU, and the model is on {device}; use sdpa there"
    return ""
