"""One turn's drafting as the event loop sees it: commits go to the device thread, guesses come back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.errors import InvalidRequest
from ..engine.drafting import DraftJob
from ..engine.engine import OpenedSlot
from ..pacing.window import MAX_LEAD
from .device_thread import DeviceThread
from .outbox import Guessed, Outbox


@dataclass(frozen=True, slots=True)
class DraftTask:
    """What a turn asks of its draft. Raises InvalidRequest where that cannot be."""

    committed_length: int
    """Tokens that the session's ledger holds."""
    kept_length: int
    """So many of them the session held before the turn, whose input follows."""
    lead: int
    """How far to guess ahead of what is committed, in tokens."""
    burst: int = 1
    """How many guesses to gather before they are sent."""

    def __post_init__(self) -> None:
        if not 1 <= self.lead <= MAX_LEAD:
            raise InvalidRequest("lead", f"lead must be 1 to {MAX_LEAD}")
        if not 0 <= self.kept_length <= self.committed_length:
            raise InvalidRequest("kept_length", "kept_length must be 0 to committed_length")
        if not 1 <= self.burst <= self.lead:
            raise InvalidRequest("burst", "burst must be 0 to lead")


class DraftTurn:
    """Drafts on an opened slot from the first commit on, until it is closed."""

    def __init__(self, device: DeviceThread, opened: OpenedSlot, task: DraftTask) -> None:
        self._device = device
        self._outbox = Outbox()
        self._job = DraftJob(
            device.engine,
            opened.slot,
            opened.opening,
            task.committed_length,
            task.lead,
            self._outbox.put,
            self._outbox.fail,
            task.burst,
        )
        device.submit(self._job)

    def commit(
        self,
        start_position: int,
        tokens: Sequence[int],
        lead: int | None = None,
        burst: int | None = None,
    ) -> None:
        """Tells decided tokens, and the pace from now on where it changes; a lead of 0 rests.

        Raises InvalidRequest for a pace that cannot be, or tokens beyond the context; what else is wrong
        with the tokens ends the guesses with an error.
        """
        if lead is not None and not 0 <= lead <= MAX_LEAD:
            raise InvalidRequest("lead", f"lead must be 0 to {MAX_LEAD}")
        if burst is not None and not 1 <= burst <= MAX_LEAD:
            raise InvalidRequest("burst", f"burst must be 1 to {MAX_LEAD}")
        self._device.engine.check_end(start_position, len(tokens))  # before all of them are read
        decided = tuple(tokens)
        self._device.wake(lambda: self._job.commit(start_position, decided, lead, burst))

    async def take(self) -> Guessed | None:
        """The next guesses; None once `end` was called. Raises the error that ended the drafting."""
        return await self._outbox.take()

    def end(self) -> None:
        """Nobody takes guesses any more; what waits is dropped."""
        self._outbox.end()

    def close(self) -> None:
        """Ends the drafting without waiting for it; the slot keeps what is committed."""
        self._device.wake(self._job.end)
