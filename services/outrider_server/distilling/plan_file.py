"""What a run has found out and goes by from then on: kept, so that whoever goes on with it does the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..core.surroundings import Clock
from .disk import write_json

PLAN = "plan.json"
TICK_SECONDS = 15.0
"""The time that was used is written down so often."""
SECONDS_AN_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class RunPlan:
    """0 and nothing stand for what is not known yet."""

    seconds: float = 0.0
    """Used by all runs so far."""
    target: str = ""
    """Fingerprint of the model."""
    reply_tokens: int = 0
    """So many are learnt from."""
    replies: int = 0
    """The replies that have them."""
    verify_ms: tuple[tuple[int, float], ...] = ()
    """(tokens, ms) of the target's steps on this machine."""


class PlanFile:
    """The plan of a folder, and the time that this run has used."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self._path = folder / PLAN
        self._clock = clock
        self._since = self._written = clock()
        self.plan = RunPlan()
        if self._path.exists():
            kept: dict[str, Any] = json.loads(self._path.read_bytes())
            kept["verify_ms"] = tuple((int(tokens), ms) for tokens, ms in kept["verify_ms"])
            self.plan = RunPlan(**kept)
        self._before = self.plan.seconds

    def note(self, **found: Any) -> None:
        """Writes down what was found. Raises StartupError for a disk without room."""
        self.plan = replace(self.plan, seconds=self.used(), **found)
        self._written = self._clock()
        write_json(self._path, asdict(self.plan))

    def used(self) -> float:
        """Seconds of all runs so far."""
        return self._before + self._clock() - self._since

    def is_used(self, hours: float) -> bool:
        """Whether all runs together have had so much time; writes down now and then how much it was."""
        if self._clock() - self._written >= TICK_SECONDS:
            self.note()
        return self.used() >= hours * SECONDS_AN_HOUR
