"""What the benchmark found: lines for people, measurements for machines."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .spread import Spread, spread
from .tasks import Measurement


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table."""

    what: str
    value: Spread | float | int | str
    unit: str = ""
    note: str = ""
    digits: int = 2

    def text(self) -> str:
        """The value as shown."""
        if isinstance(self.value, Spread):
            return self.value.text(self.digits)
        return f"{self.value:.{self.digits}f}" if isinstance(self.value, float) else str(self.value)


@dataclass(slots=True)
class SuiteResult:
    """One suite's findings. `series` holds what the charts draw, by the chart's own keys."""

    name: str
    lines: list[Line] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    differences: int = 0
    """Tasks for which two configurations of Outrider gave different tokens; one is a defect."""

    def as_json(self) -> dict[str, Any]:
        """Everything, down to each turn."""
        return {
            "lines": [asdict(line) for line in self.lines],
            "notes": self.notes,
            "series": self.series,
            "differences": self.differences,
            "measurements": [_turn(entry) for entry in self.measurements],
        }


def _turn(entry: Measurement) -> dict[str, Any]:
    task, outcome = entry.task, entry.outcome
    return {
        "system": entry.system,
        "prompt": task.name,
        "prompt_tokens": len(task.prompt),
        "temperature": task.temperature,
        "seed": task.seed,
        "tokens": len(outcome.tokens),
        "tokens_sha256": _digest(outcome.tokens),
        "seconds": outcome.seconds,
        "first_seconds": outcome.first_seconds,
        "tokens_per_second": outcome.tokens_per_second,
        "details": dict(outcome.details),
    }


def _digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(struct.pack(f"<{len(tokens)}I", *tokens)).hexdigest()


def by_task(
    measurements: Sequence[Measurement], system: str, temperature: float
) -> dict[str, Measurement]:
    """One system's measurements at a temperature, by the task's name."""
    return {
        entry.task.name: entry
        for entry in measurements
        if entry.system == system and entry.task.temperature == temperature
    }


def speeds(
    measurements: Sequence[Measurement], system: str, temperature: float
) -> dict[str, float]:
    """Tokens per second by the task's name."""
    found = by_task(measurements, system, temperature)
    return {name: entry.outcome.tokens_per_second for name, entry in found.items()}


def count_differences(measurements: Sequence[Measurement], prefix: str = "outrider") -> int:
    """Tasks whose tokens are not the same in all systems of that prefix."""
    seen: dict[Any, set[tuple[int, ...]]] = {}
    for entry in measurements:
        if entry.system.startswith(prefix):
            seen.setdefault(entry.task, set()).add(entry.outcome.tokens)
    return sum(len(tokens) > 1 for tokens in seen.values())


def common_start(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens before the first difference."""
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


def degraded_notes(measurements: Sequence[Measurement]) -> list[str]:
    """One sentence for each system that had to do without the draft in some turns, and why."""
    reasons: dict[tuple[str, str], int] = {}
    for entry in measurements:
        if entry.outcome.details.get("degraded"):
            key = (entry.system, str(entry.outcome.details["degraded_reason"]))
            reasons[key] = reasons.get(key, 0) + 1
    return [
        f"{count} turns of {system} were degraded: {reason}"
        for (system, reason), count in reasons.items()
    ]


def spread_of(values: Mapping[str, float]) -> Spread:
    """The spread over tasks."""
    return spread(list(values.values()))
