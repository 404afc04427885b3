"""Builds an engine from its options: loads the model, settles its shapes, makes it ready and audits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from ..core.errors import ModelRefused, StartupError
from ..core.progress import Report, Stage
from ..engine.attention.attention_names import check_attention
from ..engine.engine import Engine
from ..engine.kept_model import model_records, recall_model
from ..engine.kernels.levels import chosen_level
from ..engine.limits import StepLimits
from ..engine.model.facts import ModelFacts
from ..engine.model.formats import check_format, model_name
from ..engine.model.hub import local_folder
from ..engine.options import EngineOptions
from ..engine.ranks.ranks import Group
from ..engine.records import Records
from ..engine.starting import Start
from ..engine.step import StepRunner
from ..planning.startup import check_memory

T = TypeVar("T")


def follow(
    loaded: ModelFacts,
    limits: StepLimits,
    *,
    compile_mode: str,
    attention: str,
    group: Group | None,
    **_: object,
) -> None:
    """What another rank than 0 makes of its share of the model: steps, until rank 0 says stop."""
    assert group is not None, "a rank alone follows nobody"
    runner = StepRunner(loaded, limits, compile_mode, attention, group)
    group.follow(runner, loaded.device)


def engine_builder(
    options: EngineOptions,
    group: Group | None = None,
    make: Callable[..., T] = Engine,  # type: ignore[assignment]
    start: Start | None = None,
    check: Callable[[Path], None] = check_format,
) -> Callable[[], T]:
    """What a device thread runs to get its engine. It raises StartupError for what cannot be served.

    `group` is this process's where ranks share the model. Rank 0 makes the engine; another one calls the
    outcome itself, with `follow` to make. `check` refuses a folder that cannot be what it is to be.
    """
    start = start or Start()

    def build() -> T:
        torch.set_num_threads(options.thread_count)
        device = _usable(options.device, group)
        check_attention(options.attention, device.type)
        if device.type == "cpu":
            chosen_level()  # refuses one that cannot be, also where the kernels would not run
        folder = local_folder(options.folder, start.tell)
        check(folder)
        here, begun = replace(options, folder=folder), start
        start.tell(Report(Stage.READING))
        if group is None:
            begun = replace(start, model_records=_model_records(start.records, here, device))
        _check_memory(here, device, group, begun)
        if group is not None:
            group.join(device)
        ranks = 1 if group is None else group.membership.size
        loaded = _load(options, folder, device, ranks, begun)
        limits = StepLimits(
            slots=options.slots,
            max_context_tokens=_context(loaded, options.max_context_tokens),
            width=options.width,
            prefill_width=options.prefill_width,
            row_buckets=options.row_buckets,
        )
        return make(
            loaded,
            limits,
            compile_mode=options.compile,
            reproducible=options.reproducible,
            attention=options.attention,
            park_bytes=_park_bytes(options, group),
            group=group,
            start=begun,
        )

    return build


def _model_records(records: Records, options: EngineOptions, device: torch.device) -> Records:
    """Those of this model; none for what cannot be loaded, as loading says best why."""
    try:
        return model_records(records, options, device)
    except (ModelRefused, OSError):
        return Records()


def _load(
    options: EngineOptions, folder: Path, device: torch.device, ranks: int, start: Start
) -> ModelFacts:
    """The model as an earlier start kept it, else as the library loads it. Raises ModelRefused."""
    name = model_name(options.folder)
    kept = recall_model(start.model_records, name, folder, start.tell)
    if kept is not None:
        return kept
    from ..engine.model.loading import load_model  # imports the library, which takes seconds

    return load_model(
        options.folder, options.dtype, device, options.quantization, ranks, start.tell
    )


def _park_bytes(options: EngineOptions, group: Group | None) -> int:
    """Nothing where ranks share the model: the other ranks' shares would have to move with rank 0's."""
    return options.park_bytes if group is None else 0


def _context(loaded: ModelFacts, wanted: int) -> int:
    """The longest context in tokens; 0 wants the one that the model names. Raises StartupError."""
    named = loaded.max_positions
    if not (named or wanted):
        raise StartupError("the model names no longest context; set max context tokens")
    most = max(named, loaded.most_positions)
    if named and wanted > most:
        raise StartupError(f"a context of {wanted} tokens is longer than the model's {most}")
    return wanted or named


def _usable(device: str, group: Group | None) -> torch.device:
    """The device, checked by use; a rank's own one among several."""
    name = device
    if group is not None and device != "cpu":
        name = f"{device}:{group.membership.local_rank}"
    try:
        torch_device = torch.device(name)
        torch.zeros(1, device=torch_device).item()
    except (RuntimeError, AssertionError) as error:
        raise StartupError(f"device {name} cannot be used on this machine") from error
    return torch_device


def _check_memory(
    options: EngineOptions, device: torch.device, group: Group | None, start: Start
) -> None:
    """Checks the model, or a rank's share. Ranks on one CPU share its memory; one counts for all there.

    No rank loads before all have passed: they join after it.
    """
    here = replace(options, device=str(device))
    if group is None:
        check_memory(here, records=start.model_records, tell=start.tell)
        return
    here, membership = replace(here, compile="off", park_bytes=0), group.membership
    if device.type != "cpu":
        check_memory(here, ranks=membership.size)
    elif membership.local_rank == 0:
        check_memory(here, ranks=membership.size, ranks_here=membership.local_size)
