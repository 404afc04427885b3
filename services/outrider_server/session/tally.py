"""What a turn came to: counted round by round, told in its summary."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.costs import RoundCost
from ..core.surroundings import Clock
from ..core.types import FinishReason, Round, TokenSource
from ..rpc.telemetry import SOURCE, TurnMetrics
from .ledger.ledger import TurnRecord


@dataclass(frozen=True, slots=True)
class TurnStarted:
    """A turn that was accepted, its input committed."""

    request_id: str
    prompt_tokens: int
    start_position: int
    seed: int
    kept_tokens: int = 0
    rewound_tokens: int = 0

    @classmethod
    def of(cls, record: TurnRecord, seed: int) -> TurnStarted:
        """A turn that the ledger holds."""
        return cls(
            request_id=record.request_id,
            prompt_tokens=record.prompt_tokens,
            start_position=record.generated_from,
            seed=seed,
            kept_tokens=record.start_position,
            rewound_tokens=record.rewound_tokens,
        )


@dataclass(frozen=True, slots=True)
class TurnSummary:
    """The fields of the proto of the same name."""

    finish_reason: FinishReason
    seed: int
    rounds: int
    proposed: int
    accepted: int
    tokens: int
    prompt_tokens: int
    prefilled_tokens: int
    ttft_ms: float
    duration_ms: float
    degraded: bool
    degraded_reason: str
    position: int
    target_ms: float
    verify_ms: float
    draft_ms: float
    guessed: int
    draft_wait_ms: float
    kept_tokens: int
    rewound_tokens: int


@dataclass(slots=True)
class Tally:
    """Counts a turn's rounds. `started_at` is the request's arrival, on the clock."""

    metrics: TurnMetrics
    clock: Clock
    started_at: float = field(init=False)
    tokens_before: int = 0
    """Tokens of the turn that were committed before this run of it."""
    rounds: int = 0
    proposed: int = 0
    accepted: int = 0
    tokens: int = 0
    prefilled_tokens: int = 0
    ttft_ms: float = 0.0
    target_ms: float = 0.0
    verify_ms: float = 0.0
    draft_ms: float = 0.0
    guessed: int = 0
    draft_wait_ms: float = 0.0

    def __post_init__(self) -> None:
        self.started_at = self.clock()

    def add(self, decided: Round) -> None:
        """Counts a recorded round."""
        if not self.rounds:
            self.ttft_ms = self.elapsed_ms()
            self.prefilled_tokens = decided.context
            self.metrics.first_token.record(self.ttft_ms / 1000)
        self.rounds += 1
        self.proposed += decided.proposed
        self.accepted += decided.agreed
        self.tokens += len(decided.tokens)
        self._spend(decided.cost)
        self.metrics.rounds.add(1)
        self.metrics.proposed.add(decided.proposed)
        self.metrics.agreed.add(decided.agreed)
        for source in TokenSource:
            count = decided.sources.count(source)
            if count:
                self.metrics.tokens.add(count, {SOURCE: source.value})

    def _spend(self, cost: RoundCost) -> None:
        self.target_ms += cost.step_ms + cost.prefill_ms
        self.verify_ms += cost.verify_ms
        self.draft_wait_ms += cost.waited_ms
        for each in cost.guesses:
            self.draft_ms += each.draft_ms
            self.guessed += each.guesses

    def elapsed_ms(self) -> float:
        """Milliseconds since the request arrived."""
        return (self.clock() - self.started_at) * 1000

    def summary(
        self, finish_reason: FinishReason, started: TurnStarted, trouble: str
    ) -> TurnSummary:
        """The summary of the turn, which has ended. `trouble` says what was wrong with the draft."""
        return TurnSummary(
            finish_reason=finish_reason,
            seed=started.seed,
            rounds=self.rounds,
            proposed=self.proposed,
            accepted=self.accepted,
            tokens=self.tokens_before + self.tokens,
            prompt_tokens=started.prompt_tokens,
            prefilled_tokens=self.prefilled_tokens,
            ttft_ms=self.ttft_ms,
            duration_ms=self.elapsed_ms(),
            degraded=bool(trouble),
            degraded_reason=trouble,
            position=started.start_position + self.tokens_before + self.tokens,
            target_ms=self.target_ms,
            verify_ms=self.verify_ms,
            draft_ms=self.draft_ms,
            guessed=self.guessed,
            draft_wait_ms=self.draft_wait_ms,
            kept_tokens=started.kept_tokens,
            rewound_tokens=started.rewound_tokens,
        )
