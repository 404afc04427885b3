"""What a forecast is asked for, checked before any work is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from outrider_server.core.errors import ModelRefused, require
from outrider_server.engine.model.hub import check_named
from outrider_server.engine.model.opening import open_checkpoint
from outrider_server.engine.model.vocabulary import read_vocabulary

from ..questions_settings import CONTEXT_TOKENS

MOST_ROUND_TRIP_MS = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings:
    """Frozen settings of one run. Raises StartupError for what cannot be run."""

    target: Path
    draft: Path
    output: Path
    questions: Path | None = None
    """None takes the bundled texts."""
    widen: float = 0.0
    """Million weights to widen the target to; 0 leaves it as it is."""
    tokens: int = 256
    """The most of each reply."""
    prompts: int = 16
    """Of the bundled texts."""
    per_category: int = 0
    """Questions of each category; 0 takes all."""
    temperatures: tuple[float, ...] = (0.0, 0.7, 1.0)
    round_trips_ms: tuple[float, ...] = (0.0, 2.0, 20.0)
    """Added to the draft's connection."""

    def __post_init__(self) -> None:
        for model in (self.target, self.draft):
            check_named(model)
        require(0 <= self.widen < math.inf, "widen must be a number of at least 0")
        require(8 <= self.tokens < CONTEXT_TOKENS, f"tokens must be 8 to {CONTEXT_TOKENS - 1}")
        require(self.prompts >= 1, "prompts must be at least 1")
        require(self.per_category >= 0, "per category must not be negative")
        hot = [value for value in self.temperatures if not 0 <= value <= 100]
        require(not hot, "temperature must be 0 to 100")
        far = [value for value in self.round_trips_ms if not 0 <= value <= MOST_ROUND_TRIP_MS]
        require(not far, f"round trip ms must be 0 to {MOST_ROUND_TRIP_MS:.0f}")


def check_vocabularies(target: Path, draft: Path) -> None:
    """Raises ModelRefused for a draft whose token ids are not the target's."""
    ours, theirs = (
        read_vocabulary(open_checkpoint(model).tokenizer().tokenizer_json, 0).fingerprint
        for model in (target, draft)
    )
    if ours != theirs:
        raise ModelRefused(
            f"the draft {draft} has another vocabulary than the target {target}; a draft must share it"
        )
