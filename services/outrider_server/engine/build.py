"""Builds an engine from plain arguments: loads the model, settles its shapes, compiles and audits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..planning.startup import check_memory
from ..planning.types import EngineRequest
from ..speculation.errors import StartupError
from .attention_choice import AUTO, check_attention
from .engine import Engine
from .hub import local_folder
from .loading import load_model
from .quantizing import NONE
from .step import StepLimits


def engine_builder(
    folder: Path,
    *,
    dtype: str,
    device: str,
    slots: int,
    row_buckets: tuple[int, ...],
    width: int,
    prefill_width: int,
    max_context_tokens: int,
    compile_mode: str,
    reproducible: bool,
    threads: int,
    quantization: str = NONE,
    attention: str = AUTO,
) -> Callable[[], Engine]:
    """What a device thread runs to get its engine. It raises StartupError for what cannot be served."""

    def build() -> Engine:
        torch.set_num_threads(threads)
        try:
            torch_device = torch.device(device)
            torch.zeros(1, device=torch_device)
        except (RuntimeError, AssertionError) as error:
            raise StartupError(f"device {device} cannot be used on this machine") from error
        check_attention(attention, torch_device.type)
        request = EngineRequest(
            dtype=dtype,
            quantization=quantization,
            device=device,
            slots=slots,
            rows=row_buckets[-1],
            width=width,
            prefill_width=prefill_width,
            max_context_tokens=max_context_tokens,
            compile=compile_mode,
        )
        check_memory(local_folder(folder), request)
        loaded = load_model(folder, dtype, torch_device, quantization)
        positions = loaded.max_positions or max_context_tokens
        if not positions:
            raise StartupError("the model names no longest context; set max context tokens")
        if max_context_tokens > positions:
            raise StartupError(
                f"a context of {max_context_tokens} tokens is longer than the model's {positions}"
            )
        limits = StepLimits(
            slots=slots,
            max_context_tokens=max_context_tokens or positions,
            width=width,
            prefill_width=prefill_width,
            row_buckets=row_buckets,
        )
        return Engine(loaded, limits, compile_mode, reproducible, attention)

    return build
