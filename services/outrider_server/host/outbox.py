"""Guesses on their way from the device thread to a stream, joined to as few messages as wait."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from ..core.errors import OutriderError
from ..core.types import Proposal
from .device_thread import tell


@dataclass(frozen=True, slots=True)
class Guessed:
    """Guesses of one branch, without a gap, and the device time that they took."""

    branch: int
    proposal: Proposal
    seconds: float


class Outbox:
    """What a drafting job has for its stream. `put`, `fail` from any thread, the rest on the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Guessed] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._error: OutriderError | None = None

    def put(self, branch: int, proposal: Proposal, seconds: float) -> None:
        """Adds guesses and the device time that they took."""
        tell(self._loop, self._add, Guessed(branch, proposal, seconds))

    def fail(self, error: OutriderError) -> None:
        """Ends the outbox with an error."""
        tell(self._loop, self.end, error)

    def end(self, error: OutriderError | None = None) -> None:
        """Ends the outbox; what waits is dropped, since nobody will hear it in time."""
        self._ended = True
        self._error = self._error or error
        self._changed.set()

    async def take(self) -> Guessed | None:
        """All that waits of the next branch without a gap, as one; None at the end.

        Raises the error that ended the outbox.
        """
        while not self._waiting and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error
        if self._ended:
            return None
        first = self._waiting.popleft()
        start, tokens = first.proposal.start_position, list(first.proposal.tokens)
        seconds = first.seconds
        while self._waiting:
            following = self._waiting[0]
            is_next = following.proposal.start_position == start + len(tokens)
            if following.branch != first.branch or not is_next:
                break
            tokens += following.proposal.tokens
            seconds += following.seconds
            self._waiting.popleft()
        return Guessed(first.branch, Proposal(start, tuple(tokens)), seconds)

    def _add(self, guessed: Guessed) -> None:
        self._waiting.append(guessed)
        self._changed.set()
