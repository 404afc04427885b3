"""Sessions in numbers: more than slots, more than can run, more than are used. Prints tables in Markdown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import outrider
import uvloop
from outrider_server.core.errors import StartupError

from . import crowd, idle, overload, parking
from .clients import OverloadSettings
from .crowd import CrowdSettings
from .idle import IdleSettings
from .machine import caption, machine_facts
from .model_folder import check_model_folder
from .models import Models, prepared_models
from .parking import ParkingSettings
from .widening import check_widen

Settings = CrowdSettings | OverloadSettings | IdleSettings


def measure_sessions(settings: Settings, target: Path, draft: Path, widen: float) -> int:
    """Measures over services; 0, or 1 where something is not as promised. Raises StartupError."""
    check_model_folder(draft)
    _check(target, widen)
    models = prepared_models(target, draft, widen)
    try:
        lines, found = uvloop.run(_measured(settings, models))
    except outrider.OutriderError as error:
        raise StartupError(f"a turn failed: {error}") from error
    _print([models.label, *lines])
    for problem in found:
        print(f"NOT AS PROMISED: {problem}")
    return 1 if found else 0


def measure_parking(settings: ParkingSettings, target: Path, widen: float) -> int:
    """Measures an engine alone; 0. Raises StartupError."""
    _check(target, widen)
    _print([parking.table(parking.run_parking(target, widen, settings))])
    return 0


def _check(target: Path, widen: float) -> None:
    """Raises StartupError, before any work."""
    check_model_folder(target)
    check_widen(widen)


def _print(lines: Sequence[str]) -> None:
    print(caption(machine_facts()), *lines, sep="\n\n")


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _measured(settings: Settings, models: Models) -> tuple[list[str], list[str]]:
    """The tables, and what is not as promised."""
    match settings:
        case CrowdSettings():
            phases = await crowd.run_crowd(settings, models, _report)
            lines = [crowd.table(phases), "\n".join(map(crowd.counts, phases))]
            return lines, [text for phase in phases for text in crowd.problems(phase)]
        case OverloadSettings():
            series = await overload.run_overload(settings, models, _report)
            return [overload.table(series), overload.cpu_table(series)], overload.problems(series)
        case IdleSettings():
            seen = await idle.run_idle(settings, models, _report)
            return [idle.table(seen.readings), idle.summary(seen)], idle.problems(seen)
