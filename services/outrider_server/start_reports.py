"""What services report while they start: as lines from a child to its parent, as words, and as times.

A child writes to its standard output, before `ready ADDRESS`, a line for each report, and in place of a
message of its own the reason why it does not start. Its parent shows the one and raises the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .core.progress import Report, Stage
from .planning.units import format_bytes

VARIABLE = "OUTRIDER_START"
"""Says to a child that its parent reads these lines; empty says that nobody does."""
STARTING = "starting "
REFUSED = "refused "

Listener = Callable[[str, Report], None]
"""Takes a service's name and its report."""


def unheard(service: str, report: Report) -> None:
    """Listens to nothing."""


def written(service: str, report: Report) -> str:
    """A report as a child's line."""
    return f"{STARTING}{service} {report.stage.name} {report.done} {report.total}"


def read(line: str) -> tuple[str, Report] | None:
    """The service and its report that a child's line tells; None where it tells something else."""
    words = line.split()
    if not line.startswith(STARTING) or len(words) != 5 or words[2] not in Stage.__members__:
        return None
    return words[1], Report(Stage[words[2]], int(words[3]), int(words[4]))


def amount(report: Report) -> str:
    """How much of a stage is done; nothing where that is not known."""
    if not report.total:
        return ""
    shown = format_bytes if report.stage.in_bytes else str
    return f"{shown(report.done)} of {shown(report.total)}"


def said(service: str, report: Report) -> str:
    """A report as an operator reads it."""
    how_much = amount(report)
    return f"{service}: {report.stage.value}{', ' if how_much else ''}{how_much}"


@dataclass(slots=True)
class StageTimes:
    """When a service began each of its stages."""

    begun: dict[Stage, float] = field(default_factory=dict)

    def at(self, stage: Stage, seconds: float) -> bool:
        """Notes the stage; False where it was the last one already."""
        if self.begun and next(reversed(self.begun)) is stage:
            return False
        self.begun.setdefault(stage, seconds)
        return True

    def until(self, seconds: float) -> str:
        """How long all took that ended just now, and each stage."""
        begun = list(self.begun.items())
        ends = [*(since for _, since in begun[1:]), seconds]
        parts = [
            f"{stage.value} {end - since:.1f}"
            for (stage, since), end in zip(begun, ends, strict=True)
        ]
        whole = seconds - begun[0][1] if begun else 0.0
        return f"ready after {whole:.1f} s: {', '.join(parts)}"
