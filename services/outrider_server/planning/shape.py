"""From an engine's options to its shape over one model, by the rules that the engine itself follows."""

from __future__ import annotations

import shutil

from ..core.errors import StartupError
from ..engine.compiling import MIN_PARAMETERS_TO_COMPILE
from ..engine.kernels import kernels_missing
from ..engine.model.packing import HEAD_DIM_STEP, LARGEST_HEAD_DIM
from .types import EngineRequest, EngineShape, ModelSizes


def engine_shape(sizes: ModelSizes, request: EngineRequest) -> EngineShape:
    """The shape that an engine with these options has. Raises StartupError for a context it cannot have."""
    named, wanted = sizes.max_positions, request.max_context_tokens
    if not (named or wanted):
        raise StartupError(f"{sizes.name} names no longest context; set --max-context-tokens")
    most = max(named, sizes.most_positions)
    if named and wanted > most:
        raise StartupError(
            f"a context of {wanted} tokens is longer than the {most} positions of {sizes.name}"
        )
    dtype = sizes.dtype if request.dtype == "auto" else request.dtype
    on_cpu = request.device.partition(":")[0] == "cpu"
    return EngineShape(
        dtype=dtype,
        quantization=request.quantization,
        slots=request.slots,
        rows=request.rows or request.slots,
        width=request.width,
        prefill_width=request.prefill_width,
        context_tokens=wanted or named,
        packed=on_cpu and request.compile != "off" and _can_be_packed(sizes, dtype, request),
        compiled=_is_compiled(sizes, request, on_cpu),
        gathers_slots=not on_cpu,
    )


def _can_be_packed(sizes: ModelSizes, dtype: str, request: EngineRequest) -> bool:
    """Whether the engine's own kernels take the model on this machine; builds them where they would run."""
    fits = (
        request.quantization == "none"
        and not sizes.checkpoint_bytes
        and dtype == "bfloat16"
        and not any(dtype in tensor.float32_in for tensor in sizes.tensors)
        and sizes.head_dim % HEAD_DIM_STEP == 0
        and sizes.head_dim <= LARGEST_HEAD_DIM
        and bool(sizes.linears)
    )
    return fits and not kernels_missing()


def _is_compiled(sizes: ModelSizes, request: EngineRequest, on_cpu: bool) -> bool:
    if request.compile == "off":
        return False
    if on_cpu and not (shutil.which("g++") or shutil.which("clang++")):
        return False
    return request.compile != "auto" or sizes.parameters >= MIN_PARAMETERS_TO_COMPILE
