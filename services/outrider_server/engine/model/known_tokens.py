"""The tokens that a draft with a vocabulary of its own knows: a part of its target's.

Its rows have ids of their own. Each but the last stands for one of the target's tokens, in the order of the
target's ids; the last one stands for all others. Own ids exist in the model alone: where it looks tokens up,
and where its logits begin. Everything else goes by the target's ids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True, eq=False)
class KnownTokens:
    """Which of the target's tokens a draft knows."""

    token_ids: torch.Tensor
    """[K - 1] int64, ascending: the target's id of each own one but the last."""
    target_size: int
    """V, of the target's ids."""

    @property
    def count(self) -> int:
        """How many the draft knows. It is its own id for all others, too."""
        return len(self.token_ids)

    def own_ids(self) -> torch.Tensor:
        """The draft's own id of each of the target's: [V] int64."""
        own = torch.full((self.target_size,), self.count)
        own[self.token_ids] = torch.arange(self.count)
        return own

    def targets_of(self, own_ids: tuple[int, ...]) -> tuple[int, ...]:
        """The target's ids of those own ones that stand for a token."""
        return tuple(int(self.token_ids[own]) for own in own_ids if 0 <= own < self.count)
