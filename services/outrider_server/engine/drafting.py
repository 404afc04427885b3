"""The draft's job: run ahead of what is committed, one guess a step, and roll back when contradicted.

Owned by the device thread; commits reach it through the thread's inbox. How branches are counted is told
in `speculation/guesses.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..core.errors import NonFiniteLogits, OutriderError, PositionMismatch
from ..core.types import Proposal
from .engine import Engine
from .layout import NOT_FINITE, RowResult
from .scheduling.scheduler import Work
from .slots import Slot

Emit = Callable[[int, Proposal, float], None]
"""Takes (branch, proposal, seconds that it took), on the device thread."""


class DraftJob:
    """Drafts for one turn until it is closed or fails.

    `committed_length` is what the session's ledger holds; guessing starts when commits have brought all of
    it, the first of which may be empty: until then the slot may hold other tokens than the session.
    `on_error` takes the error that ended the job, on the device thread.
    """

    def __init__(
        self,
        engine: Engine,
        slot: Slot,
        opening: int,
        committed_length: int,
        lead: int,
        emit: Emit,
        on_error: Callable[[OutriderError], None],
        burst: int = 1,
    ) -> None:
        self.slot = slot
        self.done = False
        self._engine = engine
        self._opening = opening
        self._wanted_length = committed_length
        self._lead = lead
        self._burst = burst
        self._emit = emit
        self._on_error = on_error
        self._tokens = list(slot.tokens)
        self._committed = len(self._tokens)
        self._sent = self._committed
        self._branch = 0
        self._told = False
        self._seconds = 0.0

    def commit(
        self,
        start_position: int,
        tokens: Sequence[int],
        lead: int | None = None,
        burst: int | None = None,
    ) -> None:
        """Takes decided tokens; rolls back to the first guess that they contradict.

        `lead` and `burst` hold from now on, where they are given.
        """
        try:
            self._check(start_position, tokens)
        except OutriderError as error:
            self.fail(error)
            return
        for offset, token in enumerate(tokens):
            position = start_position + offset
            if position < len(self._tokens) and self._tokens[position] != token:
                # The session counts what it has seen: a guess that was never sent ends no branch.
                if self._committed <= position < self._sent:
                    self._branch += 1
                self._sent = min(self._sent, position)
                self._seconds = 0.0
                del self._tokens[position:]
                del self.slot.tokens[position:]
            if position == len(self._tokens):
                self._tokens.append(token)
        self._committed = start_position + len(tokens)
        self._sent = max(self._sent, self._committed)
        self._told = True
        self._lead = self._lead if lead is None else lead
        self._burst = self._burst if burst is None else burst
        self._send_what_is_due()

    def work(self) -> Work | None:
        """A prefill chunk or the next guess; None at the lead's end or before the context is complete."""
        self.slot.check_opening(self._opening)
        length = len(self._tokens)
        told = self._told and self._committed >= max(self._wanted_length, 1)
        if not told or length >= self._end():
            return None
        self._engine.turn_to(self.slot, length)
        start = min(len(self.slot.tokens), length - 1)
        unread = length - start
        if unread > self._engine.limits.width:
            chunk = min(unread - 1, self._engine.limits.prefill_width)
            return Work(start, tuple(self._tokens[start : start + chunk]), prefill=True)
        return Work(start, tuple(self._tokens[start:]), prefill=False)

    def take(self, work: Work, result: RowResult | None, batch_rows: int, seconds: float) -> None:
        """Notes the guess that a step brought."""
        if result is None:
            return
        self._seconds += seconds
        guess = result.tokens[-1]
        if guess == NOT_FINITE:
            self._engine.wipe(self.slot)
            self.fail(NonFiniteLogits("the draft gave logits that are no numbers"))
            return
        self._tokens.append(guess)
        self._send_what_is_due()

    def _send_what_is_due(self) -> None:
        """Sends the guesses that were gathered, once they are enough or the lead lets no more be made."""
        length = len(self._tokens)
        gathered = length - self._sent
        if gathered and (gathered >= self._burst or length >= self._end()):
            proposal = Proposal(self._sent, tuple(self._tokens[self._sent :]))
            self._emit(self._branch, proposal, self._seconds)
            self._sent, self._seconds = length, 0.0

    def end(self) -> None:
        """Ends the job and drops what the slot holds beyond the committed tokens.

        Guesses left in the slot would stand where the next turn's input belongs; the digest would then deny
        every token, and the whole session be sent again.
        """
        if not self.done and self.slot.opening == self._opening:
            del self.slot.tokens[self._committed :]
        self.done = True

    def fail(self, error: OutriderError) -> None:
        """Ends the job and tells why."""
        self.done = True
        self._on_error(error)

    def _end(self) -> int:
        """The position that the job may not guess for. Guesses alone are no reason to read all again."""
        return min(
            self._committed + self._lead,
            self._engine.limits.max_context_tokens,
            self._engine.reach(self._committed) + 1,
        )

    def _check(self, start_position: int, tokens: Sequence[int]) -> None:
        if not 0 <= start_position <= self._committed:
            raise PositionMismatch(
                f"the commit starts at position {start_position}; "
                f"the draft knows {self._committed} committed tokens",
                self._committed,
            )
        self._engine.check_tokens(start_position, tokens)
