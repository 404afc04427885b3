"""What it costs to park a session and to bring it back, beside reading its tokens again.

Measured on an engine in this process, without services: the copies out of and into a slot, and prefill.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from outrider_server.core.errors import StartupError
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.options import CompileMode, EngineOptions

from .model_cache import cache_folder
from .prompts import Prompts
from .widening import LONGEST_POSITIONS, lengthened, widened

if TYPE_CHECKING:
    from outrider_server.engine.engine import Engine

PARK_BYTES = 1 << 30
PREFILL_WIDTH = 64
SESSION, OTHER = "measured", "other"
WARM_UP = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ParkingSettings:
    """What a run is asked for. Raises StartupError for what cannot be run."""

    lengths: tuple[int, ...] = (128, 512, 2048)
    repeats: int = 9
    compile: CompileMode = "auto"
    threads: int = 0
    """0 takes every core."""

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) < 1 or max(self.lengths) > LONGEST_POSITIONS:
            raise StartupError(f"lengths must be 1 to {LONGEST_POSITIONS} tokens")
        if self.repeats < 1:
            raise StartupError("repeats must be at least 1")


@dataclass(frozen=True, slots=True)
class Parking:
    """A session of so many tokens: medians in milliseconds."""

    tokens: int
    byte_count: int
    park_ms: float
    restore_ms: float
    prefill_ms: float


def run_parking(target: Path, widen: float, settings: ParkingSettings) -> list[Parking]:
    """Measures each length on the model in `target`, made so large. Raises StartupError."""
    from outrider_server.host.building import engine_builder

    folder = (
        widened(target, widen, cache_folder())
        if widen
        else lengthened(target, LONGEST_POSITIONS, cache_folder())
    )
    engine: Engine = engine_builder(
        EngineOptions(
            folder=folder,
            dtype="auto",
            device="cpu",
            slots=1,
            rows=1,
            width=8,
            prefill_width=PREFILL_WIDTH,
            max_context_tokens=max(settings.lengths),
            compile=settings.compile,
            threads=settings.threads,
            park_bytes=PARK_BYTES,
        )
    )()
    prompts = Prompts.of(folder)
    return [
        measured(engine, prompts.take_long(length)[1], settings.repeats)
        for length in settings.lengths
    ]


def measured(engine: Engine, tokens: Sequence[int], repeats: int) -> Parking:
    """Reads, parks and restores a session of these tokens, time after time.

    The engine has one slot, which another session takes, and memory for what is parked.
    """
    park, restore, prefill = [], [], []
    for _ in range(WARM_UP + repeats):
        prefill.append(_timed_prefill(engine, tokens))
        started = time.perf_counter()
        other = engine.open(OTHER, 1, 0, _draw())
        park.append(time.perf_counter() - started)
        engine.table.close(other.slot, other.opening)
        byte_count = engine.parked.byte_count
        started = time.perf_counter()
        opened = engine.open(SESSION, 1, len(tokens), _draw())
        restore.append(time.perf_counter() - started)
        assert opened.length == len(tokens), "the session has come back whole"
        engine.table.close(opened.slot, opened.opening)
        engine.release(SESSION, 1)
    return Parking(
        len(tokens),
        byte_count,
        *(1000 * statistics.median(times[WARM_UP:]) for times in (park, restore, prefill)),
    )


def table(rows: Sequence[Parking]) -> str:
    """The measurements as a table in Markdown."""
    lines = [
        "| tokens | KV, MiB | park, ms | restore, ms | read again, ms | read again / restore |"
    ]
    lines.append("|---:|---:|---:|---:|---:|---:|")
    lines += [
        f"| {row.tokens} | {row.byte_count / 2**20:.2f} | {row.park_ms:.2f} | {row.restore_ms:.2f} "
        f"| {row.prefill_ms:.1f} | {row.prefill_ms / row.restore_ms:.0f} |"
        for row in rows
    ]
    return "\n".join(lines)


def _timed_prefill(engine: Engine, tokens: Sequence[int]) -> float:
    """Seconds that it takes to open a new session and to read its tokens."""
    started = time.perf_counter()
    opened = engine.open(SESSION, 1, 0, _draw())
    width = engine.limits.prefill_width
    for start in range(0, len(tokens), width):
        engine.prefill(opened.slot, start, tuple(tokens[start : start + width]))
    seconds = time.perf_counter() - started
    engine.table.close(opened.slot, opened.opening)
    return seconds


def _draw() -> Draw:
    return Draw(SamplingParams(temperature=0.0), 0, 0)
