"""What a distillation is asked for, checked before any work is done. Standard library only."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import StartupError, require
from ..core.types import MAX_SEED
from ..engine.options import EngineOptions

UNTIL = ("replies", "scores", "draft")
"""The stages, in order; a run may end after any."""
OBJECTIVES = ("agreement", "kl", "total-variation")
SMALLEST_REPLY_TOKENS = 8
"""A context has to leave room for so many."""
SMALLEST_VOCABULARY = 16
NO_TEMPERATURES = "temperatures must be numbers of 0 to 100, with commas"
NO_LAYERS = "layers must be numbers from 0 on, with commas, each once"
MOST_CONTEXT_TOKENS = 2048
"""The longest conversation unless another is asked for: longer ones teach a draft little and cost much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSettings:
    """Frozen settings of one draft. Raises StartupError for what cannot be done."""

    engine: EngineOptions
    """The target's, whose slots are the replies that it writes at once."""
    output: Path
    prompts: tuple[Path, ...] = ()
    """JSON lines; with none, the target makes its prompts itself."""
    replies: tuple[Path, ...] = ()
    """JSON lines of replies that the target wrote before."""
    tokens: int | None = None
    """Reply tokens to learn from, those given included; None where time is the budget."""
    hours: float | None = None
    """Time for all stages together; None where tokens are the budget."""
    temperatures: tuple[float, ...] = (0.0, 0.7, 1.0)
    reply_tokens: int = 512
    """The longest reply."""
    layers: tuple[int, ...] | None = None
    """Of the target's; None takes the first and the last."""
    vocabulary: int | None = None
    """Rows of the draft's embedding; None takes the usual number, or all where the target has fewer."""
    objective: str = "agreement"
    passes: float = 4.0
    """So often each reply is learnt from, where tokens are the budget."""
    seed: int = 0
    until: str = UNTIL[-1]

    def __post_init__(self) -> None:
        require((self.tokens is None) != (self.hours is None), "give either --tokens or --hours")
        require(self.tokens is None or self.tokens >= 1, "tokens must be at least 1")
        require(self.hours is None or 0 < self.hours < math.inf, "hours must be above 0")
        for path in (*self.prompts, *self.replies):
            require(path.is_file(), f"the file {path} does not exist")
        require(
            bool(self.temperatures) and all(0 <= each <= 100 for each in self.temperatures),
            NO_TEMPERATURES,
        )
        require(
            len(set(self.temperatures)) == len(self.temperatures), "a temperature is given twice"
        )
        require(
            self.reply_tokens >= SMALLEST_REPLY_TOKENS,
            f"reply tokens must be at least {SMALLEST_REPLY_TOKENS}",
        )
        require(
            self.layers is None
            or (
                bool(self.layers)
                and min(self.layers) >= 0
                and len(set(self.layers)) == len(self.layers)
            ),
            NO_LAYERS,
        )
        require(
            self.vocabulary is None or self.vocabulary >= SMALLEST_VOCABULARY,
            f"vocabulary must be at least {SMALLEST_VOCABULARY}",
        )
        require(
            self.objective in OBJECTIVES,
            f"no such objective: {self.objective}; there are {', '.join(OBJECTIVES)}",
        )
        require(0 < self.passes <= 1000, "passes must be above 0, at most 1000")
        require(0 <= self.seed <= MAX_SEED, "seed must be 0 to 2**64 - 1")
        require(self.until in UNTIL, f"until must be one of {', '.join(UNTIL)}")

    def of_replies(self) -> Mapping[str, object]:
        """What decides which replies are written, beside the target. Raises StartupError."""
        return {
            "context": self.engine.max_context_tokens,
            "given replies": [_digest(path) for path in self.replies],
            "prompts": [_digest(path) for path in self.prompts],
            "reply tokens": self.reply_tokens,
            "seed": self.seed,
            "temperatures": list(self.temperatures),
        }

    def of_training(self) -> Mapping[str, object]:
        """What decides how a draft is trained, beside what it learns from."""
        return {
            "layers": None if self.layers is None else list(self.layers),
            "objective": self.objective,
            "vocabulary": self.vocabulary,
            **({} if self.tokens is None else {"passes": self.passes, "tokens": self.tokens}),
            **({} if self.hours is None else {"hours": self.hours}),
        }


def _digest(path: Path) -> str:
    """Raises StartupError for a file that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise StartupError(f"the file {path} cannot be read: {error.strerror}") from error
