"""The models of a run: as given, or made to cost what larger ones cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from outrider_server.engine.model.opening import open_checkpoint

from .model_cache import cache_folder
from .widening import LONGEST_POSITIONS, lengthened, widened

CONTEXT_TOKENS = 1024
LONGEST_PROMPT = 512
DEFAULT_POSITIONS = 1024
"""Taken for a model that names no longest context."""


@dataclass(frozen=True, slots=True)
class Models:
    """The folders or GGUF files that a run measures, and what has to be said about them."""

    target: Path
    draft: Path | None
    label: str

    @property
    def longest(self) -> int:
        """Positions that both models accept."""
        return min(
            int(open_checkpoint(model).config().get("max_position_embeddings") or DEFAULT_POSITIONS)
            for model in filter(None, (self.target, self.draft))
        )

    def context_for(self, tokens: int) -> int:
        """A context that holds any of the prompts and so many more tokens, where the models do."""
        return min(max(CONTEXT_TOKENS, tokens + LONGEST_PROMPT), self.longest)


def prepared_models(target: Path, draft: Path | None, widen: float) -> Models:
    """Widens the target to so many million weights and lengthens the draft; 0 leaves both as they are.

    Raises StartupError.
    """
    target_name = target.resolve().name
    draft_name = draft.resolve().name if draft else "none"
    if not widen:
        return Models(target, draft, f"target {target_name}, draft {draft_name}")
    wide = widened(target, widen, cache_folder())
    label = (
        f"{wide.name}: the text of {target_name} at the cost of a larger model; "
        f"draft {draft_name}; beyond the models' own range of positions the text is extrapolation"
    )
    longer = lengthened(draft, LONGEST_POSITIONS, cache_folder()) if draft else None
    return Models(wide, longer, label)
