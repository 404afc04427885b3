"""The nouns of the decode loop: readable alone, validated when made, never changed after.

Positions are absolute and 0-based within a session. Token ids are plain integers.
"""

from __future__ import annotations

import enum
import hashlib
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from .costs import GuessCost, RoundCost
from .errors import InvalidRequest

MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024
MAX_WITHHELD = 2048
MAX_SEED = 2**64 - 1
MAX_FLOAT32 = (2 - 2**-23) * 2.0**127
NO_BIAS: Mapping[int, float] = MappingProxyType({})


class TokenSource(enum.Enum):
    """Who wrote a token first."""

    DRAFT = "draft"
    NGRAM = "ngram"
    TARGET = "target"


class DraftMode(enum.Enum):
    """Who may propose tokens."""

    AUTO = "auto"
    MODEL = "model"
    NGRAM = "ngram"
    OFF = "off"


class LoopMode(enum.Enum):
    """How the loop paces draft and target."""

    ADAPTIVE = "adaptive"
    RUN_AHEAD = "run_ahead"
    SYNCHRONOUS = "synchronous"


class FinishReason(enum.Enum):
    """Why a turn ended."""

    END_TOKEN = "end_token"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    CANCELLED = "cancelled"
    FAILED = "failed"


def _require(holds: bool, name: str, message: str) -> None:
    if not holds:
        raise InvalidRequest(f"sampling.{name}", f"{name} {message}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the target draws a token. Defaults leave the model's distribution as it is.

    Raises InvalidRequest, naming the field, for a value outside its range.
    """

    temperature: float = 1.0
    """Divides the logits; 0 decides greedily."""
    top_k: int = 0
    """Keep the `top_k` most probable tokens and their ties; 0 keeps all."""
    top_p: float = 1.0
    """Keep the most probable tokens until their mass reaches this; 1.0 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this many times as probable as the most probable."""
    repetition_penalty: float = 1.0
    """Weakens the tokens that the session holds."""
    frequency_penalty: float = 0.0
    """Subtracted for each time that the turn generated the token."""
    presence_penalty: float = 0.0
    """Subtracted if the turn generated the token at all."""
    logit_bias: Mapping[int, float] = field(default_factory=lambda: NO_BIAS)
    """Added to the logits of these token ids."""

    def __post_init__(self) -> None:
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty"):
            _require(math.isfinite(getattr(self, name)), name, "must be a finite number")
        _require(
            math.isfinite(self.presence_penalty), "presence_penalty", "must be a finite number"
        )
        _require(0 <= self.temperature <= 100, "temperature", "must be 0 to 100; 0 is greedy")
        _require(0 <= self.top_k < 2**31, "top_k", "must not be negative; 0 keeps every token")
        _require(0 < self.top_p <= 1, "top_p", "must be above 0 and at most 1")
        _require(0 <= self.min_p <= 1, "min_p", "must be 0 to 1")
        _require(
            0 < self.repetition_penalty <= 100, "repetition_penalty", "must be above 0, at most 100"
        )
        _require(-100 <= self.frequency_penalty <= 100, "frequency_penalty", "must be -100 to 100")
        _require(-100 <= self.presence_penalty <= 100, "presence_penalty", "must be -100 to 100")
        _require(
            len(self.logit_bias) <= MAX_LOGIT_BIAS,
            "logit_bias",
            f"must have at most {MAX_LOGIT_BIAS} entries",
        )
        for token, bias in self.logit_bias.items():
            _require(
                abs(bias) <= MAX_FLOAT32, "logit_bias", f"of token {token} must be a finite float32"
            )

    def check_vocabulary(self, vocabulary_size: int) -> None:
        """Raises InvalidRequest when the logit bias names a token outside the vocabulary."""
        for token in self.logit_bias:
            _require(
                0 <= token < vocabulary_size,
                "logit_bias",
                f"names token {token}; the vocabulary has ids 0 to {vocabulary_size - 1}",
            )


NEUTRAL = SamplingParams()
"""The target's own distribution."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Everything that a draw depends on beside the target and the tokens before it."""

    sampling: SamplingParams
    seed: int
    generated_from: int
    """Position of the turn's first generated token."""
    logprobs: int | None = None
    """Most probable tokens to report with each decision; None reports nothing."""
    vocabulary_size: int | None = None
    """Ids from here on are never drawn; None draws every id that the model has."""
    withheld: tuple[int, ...] = ()
    """Tokens that are not drawn among the first `min_new_tokens` of the turn."""
    min_new_tokens: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= MAX_SEED:
            raise InvalidRequest("seed", "seed must be 0 to 2**64 - 1")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise InvalidRequest("logprobs", f"logprobs must be 0 to {MAX_LOGPROBS}")
        if self.generated_from < 0:
            raise InvalidRequest("generated_from", "generated_from must not be negative")
        if self.vocabulary_size is not None and self.vocabulary_size < 1:
            raise InvalidRequest("vocabulary_size", "vocabulary_size must be at least 1")
        if self.min_new_tokens < 0:
            raise InvalidRequest("min_new_tokens", "min_new_tokens must not be negative")
        if len(self.withheld) > MAX_WITHHELD:
            raise InvalidRequest(
                "withheld_token_ids", f"withheld_token_ids must have at most {MAX_WITHHELD} ids"
            )

    @property
    def withheld_until(self) -> int:
        """The first position for which every token may be drawn."""
        return self.generated_from + self.min_new_tokens if self.withheld else 0

    def check_vocabulary(self, vocabulary_size: int) -> None:
        """Raises InvalidRequest when a token outside the vocabulary is named, or none is left to draw."""
        self.sampling.check_vocabulary(vocabulary_size)
        for token in self.withheld:
            if not 0 <= token < vocabulary_size:
                raise InvalidRequest(
                    "withheld_token_ids",
                    f"token id {token} is outside the vocabulary of 0 to {vocabulary_size - 1}",
                )
        if len(set(self.withheld)) == vocabulary_size:
            raise InvalidRequest("withheld_token_ids", "some token must be left to draw")


@dataclass(frozen=True, slots=True)
class Proposal:
    """Guesses for the positions from `start_position` on."""

    start_position: int
    tokens: tuple[int, ...] = ()
    source: TokenSource = TokenSource.DRAFT
    continued_from: int | None = None
    """Index in `tokens` from which n-grams went on where the source ended; None where they did not."""
    survival: tuple[float, ...] = ()
    """Chance that each token and all before it agree; empty where nobody estimated it."""
    waited_ms: float = field(default=0.0, compare=False)
    """How long they were waited for."""
    spent: tuple[GuessCost, ...] = field(default=(), compare=False)
    """What guesses cost that came since the proposal before, of use or not."""

    @property
    def sources(self) -> tuple[TokenSource, ...]:
        """Who guessed each token."""
        own = len(self.tokens) if self.continued_from is None else self.continued_from
        return (self.source,) * own + (TokenSource.NGRAM,) * (len(self.tokens) - own)


@dataclass(frozen=True, slots=True)
class Step:
    """What the verifier is asked: committed tokens it may lack, and guesses for what follows."""

    start_position: int
    context_tokens: tuple[int, ...]
    proposed_tokens: tuple[int, ...] = ()
    survival: tuple[float, ...] = ()
    """As in `Proposal`. What lacks an estimate counts as certain."""

    @property
    def decided_position(self) -> int:
        """Position of the first token that this step decides."""
        return self.start_position + len(self.context_tokens)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural logarithms of model probabilities at temperature 1, before filters and penalties."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    """(token id, logprob), most probable first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The target's answer: `agreed` proposed tokens and one more of its own."""

    start_position: int
    agreed: int
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()
    verified: int | None = None
    """Proposed tokens that were verified at all; None for all of them."""
    step_ms: float = field(default=0.0, compare=False)
    prefill_ms: float = field(default=0.0, compare=False)
    """Device time of the step, and of what was read before it, in milliseconds."""

    def check(self, step: Step) -> None:
        """Raises ValueError unless this verdict can be the answer to `step`."""
        answers = (
            self.start_position == step.decided_position
            and len(self.tokens) == self.agreed + 1
            and 0 <= self.agreed <= self.verified_of(step) <= len(step.proposed_tokens)
            and self.tokens[: self.agreed] == step.proposed_tokens[: self.agreed]
        )
        if not answers:
            raise ValueError("the verdict does not answer the step")

    def verified_of(self, step: Step) -> int:
        """How many of the step's proposed tokens were verified."""
        return len(step.proposed_tokens) if self.verified is None else self.verified


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a turn keeps of the tokens that a round decided."""

    kept: int
    """How many of the tokens belong to the turn."""
    texts: tuple[str, ...]
    """The text that each kept token lets be shown."""
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One verify step and what the turn keeps of it."""

    start_position: int
    tokens: tuple[int, ...]
    """The tokens that the turn keeps; shorter than the verdict's where the turn ends inside it."""
    texts: tuple[str, ...]
    sources: tuple[TokenSource, ...]
    logprobs: tuple[TokenLogprobs, ...]
    proposed: int
    """Proposed tokens that were verified."""
    agreed: int
    """Agreed tokens among those kept."""
    context: int
    """Context tokens that the verifier read."""
    finish_reason: FinishReason | None = None
    offered: int = 0
    """Proposed tokens that the verifier was given."""
    cost: RoundCost = field(default=RoundCost(), compare=False)


def decide(proposed: Sequence[int], drawn: Sequence[int]) -> int:
    """Counts the proposed tokens that equal the target's own draws before the first that does not.

    `drawn` has one token more than `proposed`. This is the whole acceptance rule (Daliri, Musco, Suresh,
    arXiv 2408.07978, with noise shared through the position).
    """
    for index, token in enumerate(proposed):
        if token != drawn[index]:
            return index
    return len(proposed)


def tokens_digest(tokens: Sequence[int]) -> bytes:
    """BLAKE2b-128 of the ids as little-endian uint32: how two services compare what they hold."""
    packed = struct.pack(f"<{len(tokens)}I", *tokens)
    return hashlib.blake2b(packed, digest_size=16).digest()


def usable_length(length: int, digest: bytes, tokens: Sequence[int]) -> int:
    """How many of a session's `tokens` a slot holds, given the length and digest that its service names.

    0 where the digest is of other tokens.
    """
    return length if tokens_digest(tokens[:length]) == digest else 0
