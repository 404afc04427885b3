"""Sessions in numbers: more than slots, more than can run, more than are used.

    python -m outrider_bench.sessions crowd|parking|overload|idle [OPTIONS]

Each prints tables in Markdown. Status 0; 1 where something is not as promised, which is a defect; 2 with one
line where it cannot run.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import outrider
import uvloop
from outrider_server.core.errors import StartupError
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER

from . import crowd, idle, overload, parking
from .clients import OverloadSettings
from .machine import caption, machine_facts
from .models import Models, prepared_models

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SettingsT = TypeVar("SettingsT", bound="DataclassInstance")
DRAFTS = ("auto", "model", "ngram", "off")
SUITES = {
    "crowd": (crowd.CrowdSettings, "more sessions than slots take turns"),
    "parking": (parking.ParkingSettings, "park and restore beside reading again, without services"),
    "overload": (OverloadSettings, "more turns arrive than can be run"),
    "idle": (idle.IdleSettings, "thousands of sessions that nobody uses"),
}


def main() -> None:
    """The command's entry point."""
    arguments = parsed(sys.argv[1:])
    # Else gRPC says, each time that a service is started, that it has threads.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    try:
        sys.exit(_run(arguments))
    except (StartupError, outrider.OutriderError) as error:
        print(f"outrider-server: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """The suite, the models, and one option for each field of the suite's settings."""
    parser = argparse.ArgumentParser(
        prog="python -m outrider_bench.sessions", description="Sessions in numbers."
    )
    suites = parser.add_subparsers(dest="suite", required=True)
    for name, (settings, text) in SUITES.items():
        suite = suites.add_parser(name, help=text, description=f"{text.capitalize()}.")
        suite.add_argument("--target", type=Path, default=TARGET_FOLDER, help="folder of a model")
        if settings is not parking.ParkingSettings:
            suite.add_argument("--draft-model", type=Path, default=DRAFT_FOLDER, help="the same")
        suite.add_argument(
            "--widen", type=float, default=0.0, help="million weights to make the target cost"
        )
        for field in dataclasses.fields(settings):
            _add_option(suite, field, get_type_hints(settings)[field.name])
    return parser.parse_args(words)


def _add_option(parser: argparse.ArgumentParser, field: dataclasses.Field[Any], kind: Any) -> None:
    option, default = f"--{field.name.replace('_', '-')}", field.default
    help_text = "default: %(default)s"
    if isinstance(default, tuple):
        of_each = type(default[0])
        parser.add_argument(option, type=of_each, nargs="+", default=default, help=help_text)
    elif field.name == "draft":
        parser.add_argument(option, choices=DRAFTS, default=default, help=help_text)
    else:
        parser.add_argument(option, type=kind, default=default, help=help_text)


def settings_of(kind: type[SettingsT], arguments: argparse.Namespace) -> SettingsT:
    """The suite's settings. Raises StartupError."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(kind)}
    return kind(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def _run(arguments: argparse.Namespace) -> int:
    settings: Any = settings_of(SUITES[arguments.suite][0], arguments)
    _check_models(arguments)
    if arguments.suite == "parking":
        found: list[str] = []
        rows = parking.run_parking(arguments.target, arguments.widen, settings)
        lines = [parking.table(rows)]
    else:
        models = prepared_models(arguments.target, arguments.draft_model, arguments.widen)
        lines, found = uvloop.run(RUNNERS[arguments.suite](settings, models))
    facts = machine_facts()
    words = " ".join(sys.argv[1:])
    command = f"python -m outrider_bench.sessions {words}"
    print(caption(facts | {"command": command}), *lines, sep="\n\n")
    for problem in found:
        print(f"NOT AS PROMISED: {problem}")
    return 1 if found else 0


def _check_models(arguments: argparse.Namespace) -> None:
    """Raises StartupError for a folder that is no model, before any work."""
    for folder in (arguments.target, getattr(arguments, "draft_model", arguments.target)):
        if not (folder / "config.json").is_file():
            raise StartupError(f"model folder {folder} does not exist or has no config.json")
    if not 0 <= arguments.widen < math.inf:
        raise StartupError("widen must be a number of at least 0")


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


async def _crowd(settings: crowd.CrowdSettings, models: Models) -> tuple[list[str], list[str]]:
    phases = await crowd.run_crowd(settings, models, _report)
    lines = [models.label, crowd.table(phases), "\n".join(map(crowd.counts, phases))]
    return lines, [text for phase in phases for text in crowd.problems(phase)]


async def _overload(settings: OverloadSettings, models: Models) -> tuple[list[str], list[str]]:
    series = await overload.run_overload(settings, models, _report)
    lines = [models.label, overload.table(series), overload.cpu_table(series)]
    return lines, overload.problems(series)


async def _idle(settings: idle.IdleSettings, models: Models) -> tuple[list[str], list[str]]:
    found = await idle.run_idle(settings, models, _report)
    return [models.label, idle.table(found.readings), idle.summary(found)], idle.problems(found)


RUNNERS: dict[str, Any] = {"crowd": _crowd, "overload": _overload, "idle": _idle}


if __name__ == "__main__":
    main()
