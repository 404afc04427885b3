"""From the rows of a draft with a vocabulary of its own to the target's ids, by which all draws go.

A token that the draft does not know has a logit of minus infinity, which nothing that moves logits changes.
"""

from __future__ import annotations

import torch

from ..layout import NOT_FINITE
from ..model.known_tokens import KnownTokens


class Spreading:
    """Owns the logits of the steps of one engine. Not thread-safe: one thread runs steps."""

    def __init__(self, known: KnownTokens, tokens: int, device: torch.device) -> None:
        """For steps of at most so many tokens."""
        self._token_ids = known.token_ids.to(device)
        self._targets = torch.cat((self._token_ids, self._token_ids.new_tensor([NOT_FINITE])))
        self._logits = torch.full((tokens, known.target_size), -torch.inf, device=device)

    def spread(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits of the known tokens [N, K - 1] float32 -> of all [N, V], there until the next step."""
        return self._logits[: len(logits)].index_copy_(1, self._token_ids, logits)

    def targets_of(self, rows: torch.Tensor) -> torch.Tensor:
        """The target's ids of rows [N] int64; NOT_FINITE where there is none."""
        return self._targets[rows]
