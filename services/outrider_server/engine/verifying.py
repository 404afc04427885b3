"""The target's job: read what the slot lacks, then verify a proposal in one step."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from ..core.errors import InvalidRequest, NonFiniteLogits, OutriderError
from ..core.types import Step, Verdict, decide
from .engine import Engine
from .layout import NOT_FINITE, RowResult
from .scheduling.scheduler import Work
from .slots import Slot


@dataclass(frozen=True, slots=True)
class Verified:
    """A verdict and what it cost."""

    verdict: Verdict
    batch_rows: int
    seconds: float
    prefill_seconds: float


class VerifyJob:
    """Verifies one step. `outcome` resolves with a `Verified`, or with an OutriderError.

    All context but its last token is read by prefill whatever is proposed, so that the shapes which a
    token passes through do not depend on the proposal.
    """

    def __init__(self, engine: Engine, slot: Slot, opening: int, step: Step) -> None:
        self.slot = slot
        self.outcome: Future[Verified] = Future()
        self._engine = engine
        self._opening = opening
        self._step = step
        self._start = step.start_position
        self._context = step.context_tokens
        self._read = 0
        self._prefill_seconds = 0.0
        self._checked = False

    @property
    def done(self) -> bool:
        """True when the outcome is there or nobody waits for it any more."""
        return self.outcome.done()

    def work(self) -> Work:
        """The next prefill chunk, or the verify row. Raises OutriderError for a step that cannot run."""
        self.slot.check_opening(self._opening)
        if not self._checked:
            self._check()
        context = self._context
        start = self._start + self._read
        unread = len(context) - 1 - self._read
        if unread:
            chunk = min(unread, self._engine.limits.prefill_width)
            return Work(start, context[self._read : self._read + chunk], prefill=True)
        length = start + 1
        room = self._engine.reach(length) - length
        row = context[-1:] + self._step.proposed_tokens[:room]
        return Work(start, row, prefill=False, survival=self._step.survival)

    def take(self, work: Work, result: RowResult | None, batch_rows: int, seconds: float) -> None:
        """Notes a chunk that was read, or resolves the outcome."""
        if result is None:
            self._read += len(work.tokens)
            self._prefill_seconds += seconds
            return
        step = self._step
        verified = work.tokens[1:]
        agreed = decide(verified, result.tokens)
        tokens = result.tokens[: agreed + 1]
        if NOT_FINITE in tokens:
            self._engine.wipe(self.slot)
            self.fail(
                NonFiniteLogits("the target gave logits that are no numbers; nothing was decided")
            )
            return
        del self.slot.tokens[step.decided_position + agreed :]
        logprobs = result.logprobs[: agreed + 1]
        verdict = Verdict(step.decided_position, agreed, tokens, logprobs, len(verified))
        if self.outcome.set_running_or_notify_cancel():
            self.outcome.set_result(Verified(verdict, batch_rows, seconds, self._prefill_seconds))

    def fail(self, error: OutriderError) -> None:
        """Resolves the outcome with an error."""
        if self.outcome.set_running_or_notify_cancel():
            self.outcome.set_exception(error)

    def _check(self) -> None:
        step, width = self._step, self._engine.limits.width
        if not step.context_tokens:
            raise InvalidRequest("context_tokens", "a step needs at least one context token")
        if len(step.proposed_tokens) >= width:
            raise InvalidRequest(
                "proposed_tokens", f"a step takes at most {width - 1} proposed tokens"
            )
        if len(step.survival) > len(step.proposed_tokens) or not all(
            0 <= chance <= 1 for chance in step.survival
        ):
            raise InvalidRequest(
                "survival", "survival holds one chance of 0 to 1 for each proposed token"
            )
        self.slot.check_position(step.start_position)
        self._engine.check_tokens(step.start_position, step.context_tokens + step.proposed_tokens)
        held = tuple(self.slot.tokens[: step.start_position])
        if self._engine.turn_to(self.slot, step.decided_position):
            self._start, self._context = 0, held + step.context_tokens
        self._checked = True
