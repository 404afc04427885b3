"""The check at the start of a service: what is planned against what is there, before weights are loaded."""

from __future__ import annotations

from pathlib import Path

import torch

from ..speculation.errors import StartupError
from .available import available_bytes
from .config_file import read_config
from .counting import count_model
from .fitting import fit
from .memory import plan_memory
from .shape import engine_shape
from .types import EngineRequest, EngineShape, MemoryPlan, ModelSizes
from .units import format_bytes


def check_memory(folder: Path, request: EngineRequest, available: int | None = None) -> None:
    """Raises StartupError where an engine's planned bytes exceed what its device has left.

    `available` bytes are asked of the device by default. A folder or a request that cannot be planned passes:
    loading it says what is wrong with it.
    """
    device = torch.device(request.device)
    left = available_bytes(device) if available is None else available
    if left is None:
        return
    try:
        sizes = count_model(read_config(folder))
        shape = engine_shape(sizes, request)
    except StartupError:
        return
    memory = plan_memory(sizes, shape)
    if memory.total_bytes > left:
        raise StartupError(
            f"{sizes.name} needs {format_bytes(memory.total_bytes)} ({_parts(memory)}) and {device} has "
            f"{format_bytes(left)} available; {_advice(sizes, shape, request, left)}"
        )


def _parts(memory: MemoryPlan) -> str:
    weights = memory.weights.total_bytes + memory.kernel_bytes
    steps = memory.table_bytes + memory.workspace_bytes
    return (
        f"weights {format_bytes(weights)}, cache {format_bytes(memory.cache_bytes)}, "
        f"steps {format_bytes(steps)}"
    )


def _advice(sizes: ModelSizes, shape: EngineShape, request: EngineRequest, left: int) -> str:
    """What to reduce: the slots, or else the context, or else the weights."""
    found = fit(sizes, shape, left, rows=request.rows)
    if found.largest_slots:
        return f"it fits with --slots {found.largest_slots}"
    if found.largest_context_tokens:
        return f"it fits with --max-context-tokens {found.largest_context_tokens}"
    return "use a smaller model or dtype, fewer slots and a shorter context, or more memory"
