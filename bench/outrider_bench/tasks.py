"""What every system is asked, and what it answers: the nouns of a measured turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Task:
    """One turn, the same for every system. Systems that draw otherwise get the same number of tokens."""

    name: str
    prompt: tuple[int, ...]
    tokens: int
    temperature: float
    seed: int
    chat: bool = False
    """The reply is streamed, and ends where the model ends it; else it is asked for at once, in full."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """A turn that was run. `seconds` is the whole turn, prompt included, as its caller sees it."""

    tokens: tuple[int, ...]
    seconds: float
    first_seconds: float | None = None
    """From the request to the first token; None where the system was not asked to stream."""
    details: Mapping[str, Any] = field(default_factory=dict)
    arrivals: tuple[float, ...] = ()
    """When each token came, in seconds on this process's clock; empty where nobody noted it."""

    @property
    def tokens_per_second(self) -> float:
        """Generated tokens over the whole turn."""
        return len(self.tokens) / self.seconds


class System(Protocol):
    """Something that generates: Outrider in one configuration, or a peer in one mode."""

    name: str

    async def run(self, task: Task) -> Outcome:
        """Runs a turn from nothing: no earlier turn's work may be of use to it."""
        ...


@dataclass(frozen=True, slots=True)
class Measurement:
    """One system's outcome of one task."""

    system: str
    task: Task
    outcome: Outcome
