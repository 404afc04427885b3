"""From an engine's options to its shape over one model, by the rules that the engine itself follows."""

from __future__ import annotations

import torch

from ..core.errors import StartupError
from ..core.progress import Progress, silent
from ..engine.kernel_fit import BITSANDBYTES, why_not_wanted, why_unfit
from ..engine.kernels import built_kernels_missing
from ..engine.options import EngineOptions
from .types import EngineShape, ModelSizes
from .weights import KERNEL_BLOCK


def engine_shape(sizes: ModelSizes, options: EngineOptions, tell: Progress = silent) -> EngineShape:
    """The shape that an engine with these options has. Raises StartupError for a context it cannot have.

    `tell` hears of kernels that have to be compiled to know whether they take the model.
    """
    named, wanted = sizes.max_positions, options.max_context_tokens
    if not (named or wanted):
        raise StartupError(f"{sizes.name} names no longest context; set --max-context-tokens")
    most = max(named, sizes.most_positions)
    if named and wanted > most:
        raise StartupError(
            f"a context of {wanted} tokens is longer than the {most} positions of {sizes.name}"
        )
    dtype = sizes.dtype if options.dtype == "auto" else options.dtype
    return EngineShape(
        dtype=dtype,
        quantization=options.quantization,
        slots=options.slots,
        rows=options.rows or options.slots,
        width=options.width,
        prefill_width=options.prefill_width,
        context_tokens=wanted or named,
        packed=_is_recorded(sizes, dtype, options, tell),
        gathers_slots=_device(options) != "cpu",
    )


def _device(options: EngineOptions) -> str:
    return options.device.partition(":")[0]


def _is_recorded(sizes: ModelSizes, dtype: str, options: EngineOptions, tell: Progress) -> bool:
    """Whether the engine's own kernels take the model on this machine; builds them where they would run.

    Whether it can be recorded shows once it is loaded: here it is taken for granted.
    """
    whole = options.tensor_parallel == 1
    why = why_not_wanted(options.compile, options.attention) or why_unfit(
        _device(options), whole, getattr(torch, dtype), sizes.head_dim
    )
    alike = all(layer.key_values == layer.value_values for layer in sizes.layers)
    fits = not why and alike and _takes_quantized(sizes, options.quantization)
    return fits and not built_kernels_missing(tell)


def _takes_quantized(sizes: ModelSizes, quantization: str) -> bool:
    """Whether the kernels take the model's linear layers so quantized: 4 bits in blocks within a row."""
    if sizes.quantized_by not in ("", BITSANDBYTES) and not sizes.read_here:
        return False
    return quantization in ("none", "int8") or all(
        layer.inputs % KERNEL_BLOCK == 0 for layer in sizes.linears if layer.quantizable
    )
