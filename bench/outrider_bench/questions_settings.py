"""What the benchmark `questions` is asked for, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from outrider_server.core.errors import require
from outrider_server.engine.model.formats import is_gguf

from .model_folder import check_model
from .peer_options import PeerOptions

CONTEXT_TOKENS = 4096
"""The most of a chat, its last reply included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionSettings:
    """Frozen settings of one run. Raises StartupError for what cannot be run."""

    file: Path
    target: Path
    draft: Path | None
    output: Path
    peers: PeerOptions
    tokens: int = 256
    """The most of each reply."""
    per_category: int = 0
    """Questions of each category; 0 takes all."""
    temperatures: tuple[float, ...] = (0.0, 0.7, 1.0)

    def __post_init__(self) -> None:
        models = list(filter(None, (self.target, self.draft)))
        for model in models:
            check_model(model)
        require(
            self.peers.weights.bits == 16 or not any(map(is_gguf, models)),
            "a GGUF file has bits of its own: leave --bits out",
        )
        require(1 <= self.tokens < CONTEXT_TOKENS, f"tokens must be 1 to {CONTEXT_TOKENS - 1}")
        require(self.per_category >= 0, "per category must not be negative")
        hot = [value for value in self.temperatures if not 0 <= value <= 100]
        require(not hot, "temperature must be 0 to 100")
