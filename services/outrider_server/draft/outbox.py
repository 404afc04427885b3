"""Guesses on their way from the device thread to a stream, joined to as few messages as wait."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from ..core.errors import OutriderError
from ..core.types import Proposal


class Outbox:
    """What a drafting job has for its stream. `put`, `fail` from any thread, the rest on the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[int, Proposal, float]] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._error: OutriderError | None = None

    def put(self, branch: int, proposal: Proposal, seconds: float) -> None:
        """Adds guesses and the device time that they took."""
        self._tell(self._add, branch, proposal, seconds)

    def fail(self, error: OutriderError) -> None:
        """Ends the outbox with an error."""
        self._tell(self.end, error)

    def end(self, error: OutriderError | None = None) -> None:
        """Ends the outbox; what waits is dropped, since nobody will hear it in time."""
        self._ended = True
        self._error = self._error or error
        self._changed.set()

    async def take(self) -> tuple[int, Proposal, float] | None:
        """The next guesses of one branch without a gap, as one proposal with its time; None at the end.

        Raises the error that ended the outbox.
        """
        while not self._waiting and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        if self._error is not None:
            raise self._error
        if self._ended:
            return None
        branch, first, seconds = self._waiting.popleft()
        tokens = list(first.tokens)
        while self._waiting:
            next_branch, following, more_seconds = self._waiting[0]
            end = first.start_position + len(tokens)
            if next_branch != branch or following.start_position != end:
                break
            tokens += following.tokens
            seconds += more_seconds
            self._waiting.popleft()
        return branch, Proposal(first.start_position, tuple(tokens)), seconds

    def _tell(self, change: Callable[..., None], *arguments: object) -> None:
        # The loop closes before the device thread ends; nobody listens then.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(change, *arguments)

    def _add(self, branch: int, proposal: Proposal, seconds: float) -> None:
        self._waiting.append((branch, proposal, seconds))
        self._changed.set()
