"""What the steps of a pair take on this machine, and how that becomes what the pacing reckons with."""

from __future__ import annotations

from dataclasses import dataclass

from outrider_server.pacing.window import Costs


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """Milliseconds of one model's steps: the first quartile, as what else runs makes steps longer only."""

    step_ms: tuple[float, ...]
    """Of a step of 1 token, of 2, ...; of a draft the first alone."""
    prefill_ms: float
    """Reading one token of a long prompt."""

    def step(self, tokens: int) -> float:
        """A step of so many tokens; the longest one's for more."""
        return self.step_ms[min(tokens, len(self.step_ms)) - 1]


@dataclass(frozen=True, slots=True)
class PairTimes:
    """Both models of a pair, each while the other rests and while it computes; and what is outside."""

    target: ModelTimes
    target_beside: ModelTimes
    draft: ModelTimes
    draft_beside: ModelTimes
    outside_ms: float
    """What a round takes outside both models: messages, event loops, the session's own work."""
    way_ms: float
    """From a commit to the draft's first guess, without model time and without distance."""

    def pacing(self, distance_ms: float, *, beside: bool) -> Costs:
        """As the pacing takes them; `distance_ms` is added to the way to the draft and back.

        `beside` are those of rounds that run ahead.
        """
        target = self.target_beside if beside else self.target
        draft = self.draft_beside if beside else self.draft
        return Costs(
            draft_ms=draft.step(1),
            round_trip_ms=self.way_ms + distance_ms,
            verify_ms=tuple(
                (tokens, ms + self.outside_ms) for tokens, ms in enumerate(target.step_ms, 1)
            ),
        )
