"""What the decode loop needs of the world: small interfaces.

Remote ports over gRPC make the distributed system, local ports over a model in this process make a
co-located one, and tests bring their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..core.costs import GuessCost
from ..core.types import Accepted, Proposal, Round, Step, Verdict


class Verifier(Protocol):
    """The target: decides tokens."""

    async def verify(self, step: Step) -> Verdict:
        """Runs one step. Repeating it gives the same verdict. Raises OutriderError."""
        ...


class Drafter(Protocol):
    """Proposes tokens. It may be slow, wrong or dead: that costs time, never correctness.

    No method raises; a drafter that has failed proposes nothing.
    """

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Takes guesses for the positions from `position` on.

        Waits, within the drafter's patience, until `minimum` are there; returns at most `maximum`,
        possibly none. What is returned stays the drafter's guess until a commit confirms it.
        """
        ...

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Tells which tokens were decided for the positions from `start_position` on."""
        ...


class ModelDrafter(Drafter, Protocol):
    """A drafter over a draft model, which can be told how to pace itself."""

    def pace(self, lead: int, burst: int, ahead: bool = False) -> None:
        """From the last commit on: guess `lead` tokens ahead, 0 to rest, and gather `burst` of them.

        `ahead` says that it guesses on while the target verifies.
        """
        ...

    def spent(self) -> tuple[GuessCost, ...]:
        """What guesses cost that came since this, or `take`, was called last."""
        ...

    def compared(self) -> tuple[int, int]:
        """(guesses compared with decided tokens since the last call, those that agreed)."""
        ...


class TurnEnd(Protocol):
    """Knows where a turn ends: end tokens, stop strings, limits."""

    def accept(self, tokens: Sequence[int]) -> Accepted:
        """Takes the next decided tokens; says how many belong to the turn and whether it ends."""
        ...


class Meter(Protocol):
    """Learns what rounds cost, before the drafter hears of their tokens."""

    def observe(self, decided: Round) -> None:
        """Takes a round that was decided."""
        ...


class Recorder(Protocol):
    """The ledger, as the loop sees it."""

    async def record(self, rounds: Sequence[Round]) -> None:
        """Writes rounds that follow each other durably; when it returns, their tokens may be shown.

        Raises OutriderError with nothing written.
        """
        ...
