"""The check at the start of a service: what is planned against what is there, before weights are loaded."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from ..core.errors import StartupError
from ..core.importing import many_imports
from ..core.progress import Progress, silent
from ..engine.model.formats import model_name
from ..engine.options import EngineOptions
from ..engine.records import Records
from .available import available_bytes
from .fitting import fit
from .memory import plan_memory
from .shape import engine_shape
from .types import EngineShape, MemoryPlan, ModelSizes, sizes_from
from .units import format_bytes

RECORD = "sizes"
"""The kind of record that a model's sizes are kept as."""


def check_memory(
    options: EngineOptions,
    available: int | None = None,
    ranks: int = 1,
    ranks_here: int = 1,
    records: Records | None = None,
    tell: Progress = silent,
) -> None:
    """Raises StartupError where an engine's planned bytes exceed what its device has left.

    `available` bytes are asked of the device by default. Of several `ranks` each needs its share, and
    `ranks_here` of them share the device's memory. `records` are those of starts of the same model.
    `tell` hears of kernels that are compiled for it. What cannot be planned passes: loading it says what is
    wrong with it.
    """
    device = torch.device(options.device)
    left = available_bytes(device) if available is None else available
    if left is None:
        return
    try:
        sizes, shares_keys = _counted(options, records or Records())
        shape = engine_shape(sizes, options, tell)
    except StartupError:
        return
    memory = plan_memory(sizes, shape)
    if device.type == "cpu":  # where the parked sessions share it
        left -= options.park_bytes
    if ranks > 1:
        _check_share(sizes, _share(memory, ranks, shares_keys), left, ranks_here)
    elif memory.total_bytes > left:
        raise StartupError(
            f"{sizes.name} needs {format_bytes(memory.total_bytes)} ({_parts(memory)}) and {device} has "
            f"{format_bytes(max(left, 0))} available{_beside(device, options)}; "
            f"{_advice(sizes, shape, options, left)}"
        )


def _counted(options: EngineOptions, records: Records) -> tuple[ModelSizes, bool]:
    """A model's sizes, which an earlier start may have kept, and whether ranks share its keys.

    Raises StartupError for what cannot be planned.
    """
    kept = sizes_from(records.recall(RECORD))
    if kept is not None and options.tensor_parallel == 1:
        return replace(kept, name=model_name(options.folder)), False
    with many_imports():  # of the library, which takes seconds
        from ..engine.ranks.sharing import shares_keys
        from .config_file import read_config
        from .counting import count_model

    file = read_config(options.folder)
    sizes = count_model(file, torch.device(options.device).type)
    records.keep(RECORD, asdict(sizes))
    return sizes, shares_keys(file.config)


def _beside(device: torch.device, options: EngineOptions) -> str:
    if device.type != "cpu" or not options.park_bytes:
        return ""
    return f" beside {format_bytes(options.park_bytes)} for parked sessions (--park-memory)"


def _share(memory: MemoryPlan, ranks: int, keys_too: bool) -> MemoryPlan:
    """A rank's part. What every rank holds whole by the library's plan (norms, biases) is small: left out."""
    weights = memory.weights
    return replace(
        memory,
        weights=replace(weights, kept_bytes=weights.kept_bytes // ranks),
        cache_bytes=memory.cache_bytes // ranks if keys_too else memory.cache_bytes,
    )


def _check_share(sizes: ModelSizes, share: MemoryPlan, left: int, ranks_here: int) -> None:
    needed = share.total_bytes * ranks_here
    if needed > left:
        together = f", {format_bytes(needed)} for the {ranks_here} ranks of this machine,"
        raise StartupError(
            f"each rank of {sizes.name} needs {format_bytes(share.total_bytes)} ({_parts(share)})"
            f"{together if ranks_here > 1 else ''} and there are {format_bytes(left)} available; "
            "use more devices, a smaller dtype, fewer slots or a shorter context"
        )


def _parts(memory: MemoryPlan) -> str:
    weights = memory.weights.total_bytes + memory.kernel_bytes
    steps = memory.table_bytes + memory.workspace_bytes
    return (
        f"weights {format_bytes(weights)}, cache {format_bytes(memory.cache_bytes)}, "
        f"steps {format_bytes(steps)}"
    )


def _advice(sizes: ModelSizes, shape: EngineShape, options: EngineOptions, left: int) -> str:
    """What to reduce: the slots, or else the context, or else the weights."""
    found = fit(sizes, shape, left, rows=options.rows)
    if found.largest_slots:
        return f"it fits with --slots {found.largest_slots}"
    if found.largest_context_tokens:
        return f"it fits with --max-context-tokens {found.largest_context_tokens}"
    return "use a smaller model or dtype, fewer slots and a shorter context, or more memory"
