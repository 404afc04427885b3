"""The state of one turn while it decodes: where it stands and what the verifier has yet to read."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.costs import RoundCost
from ..core.types import FinishReason, Proposal, Round, Step, TokenSource, Verdict
from .ports import TurnEnd


class Turn:
    """Turns proposals into steps and verdicts into rounds. Owned by the loop that decodes it.

    `known_length` is the number of the session's tokens whose KV the verifier holds; `tokens` are all
    tokens of the session, the turn's input included. At least the last token is always sent.
    """

    def __init__(
        self,
        tokens: Sequence[int],
        known_length: int,
        window: int,
        end: TurnEnd,
        max_new_tokens: int,
    ) -> None:
        if not tokens:
            raise ValueError("a turn needs at least one token to continue from")
        self.position = len(tokens)
        self.finish_reason: FinishReason | None = None
        self._context = tuple(tokens[min(known_length, len(tokens) - 1) :])
        self._window = window
        self._end = end
        self._remaining = max_new_tokens

    @property
    def window(self) -> int:
        """Tokens worth proposing now: no more than the turn can still use beside the target's own."""
        return max(0, min(self._window, self._remaining - 1))

    def step(self, proposal: Proposal) -> Step:
        """The step that verifies `proposal`."""
        start = self.position - len(self._context)
        usable = proposal.tokens if proposal.start_position == self.position else ()
        usable = usable[: self.window]
        return Step(start, self._context, usable, proposal.survival[: len(usable)])

    def close_round(
        self, step: Step, proposal: Proposal, verdict: Verdict, cost: RoundCost | None = None
    ) -> Round:
        """Advances the turn by what the verdict decided, up to the turn's end.

        Raises ValueError, changing nothing, when the verdict does not answer the step.
        """
        verdict.check(step)
        accepted = self._end.accept(verdict.tokens)
        kept = verdict.tokens[: accepted.kept]
        agreed = min(verdict.agreed, accepted.kept)
        sources = proposal.sources[:agreed] + (TokenSource.TARGET,) * (len(kept) - agreed)
        self.position += len(kept)
        self.finish_reason = accepted.finish_reason
        self._remaining -= len(kept)
        self._context = kept[-1:]
        return Round(
            start_position=step.decided_position,
            tokens=kept,
            texts=accepted.texts,
            sources=sources,
            logprobs=verdict.logprobs[: len(kept)],
            proposed=verdict.verified_of(step),
            agreed=agreed,
            context=len(step.context_tokens),
            finish_reason=accepted.finish_reason,
            offered=len(step.proposed_tokens),
            cost=cost or RoundCost(),
        )
