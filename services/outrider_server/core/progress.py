"""What a service does before it serves, and how far it is.

Who does it reports it to whoever it was given, and knows nothing of terminals, pipes or parents.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass


class Stage(enum.Enum):
    """What a start is at, as its user is told."""

    IMPORTING = "importing libraries"
    FETCHING = "fetching the model"
    READING = "reading configuration and tokenizer"
    LOADING = "loading weights"
    BUILDING = "compiling kernels, once on this machine"
    PACKING = "packing weights"
    CHOOSING = "timing attention kernels"
    COMPILING = "compiling steps"
    WARMING = "running first steps"
    COMPARING = "comparing with an earlier start"
    AUDITING = "auditing shapes"
    TIMING = "timing steps"
    CONNECTING = "waiting for the target"

    @property
    def in_bytes(self) -> bool:
        """True where a report's numbers are bytes."""
        return self in (Stage.LOADING, Stage.PACKING)


@dataclass(frozen=True, slots=True)
class Report:
    """A stage, and how much of it is done. A total of 0 is not known."""

    stage: Stage
    done: int = 0
    total: int = 0


Progress = Callable[[Report], None]
"""Takes a start's reports, from any thread. It raises nothing and does not wait."""


def silent(report: Report) -> None:
    """Tells nobody."""
