"""The tokens that a draft knows: those of its target's that come most often in what it learns from.

A draft that knows a part alone has ids of its own: one for each known token, in the order of the target's
ids, and a last one for every other token. Its folder says which they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

MAP_FILE = "draft_vocab.safetensors"
MAP_TENSOR = "token_ids"
CONFIG_ENTRY = "draft_vocab"
USUAL_ROWS = 16384
"""Rows of a draft's embedding where the target has more and nothing else is asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class DraftVocabulary:
    """Which of the target's tokens a draft knows."""

    token_ids: torch.Tensor
    """[known] int64, ascending: the target's ids."""
    target_size: int
    """Ids of the target's tokenizer."""
    is_whole: bool
    """Whether the draft's ids are the target's: then it has every row, and nothing has to be told."""

    @property
    def rows(self) -> int:
        """Rows of the draft's embedding."""
        return len(self.token_ids) + (not self.is_whole)

    @property
    def known(self) -> int:
        """Logits that the draft may draw from, the first ones."""
        return len(self.token_ids)

    def own_ids(self, unknown: int) -> torch.Tensor:
        """The draft's id of each of the target's, [target rows] int64; `unknown` where it has none."""
        size = max(self.target_size, int(self.token_ids[-1]) + 1)
        own = torch.full((size,), unknown)
        own[self.token_ids] = torch.arange(self.known)
        return own

    def entry(self) -> Mapping[str, int]:
        """What the draft's configuration says of it."""
        return {"target_vocab_size": self.target_size, "unknown": self.known}


def choose_vocabulary(
    counts: torch.Tensor, rows: int | None, tokenizer_size: int, kept: Iterable[int]
) -> DraftVocabulary:
    """The tokens that come most often, of equals those with the lower ids.

    `counts` [V] says how often each of the target's rows comes, `rows` how many rows the draft shall have,
    at most V, None for the usual; the tokens `kept` are in any case among them.
    """
    most = len(counts)
    rows = min(most, USUAL_ROWS) if rows is None else rows
    if rows == most:
        return DraftVocabulary(torch.arange(most), tokenizer_size, is_whole=True)
    usable = min(most, tokenizer_size)
    wanted = counts[:usable].clone()
    wanted[[token for token in kept if token < usable]] = torch.iinfo(wanted.dtype).max
    ranked = wanted.argsort(descending=True, stable=True)
    chosen = ranked[: min(rows - 1, usable)].sort().values
    return DraftVocabulary(chosen, tokenizer_size, is_whole=False)
