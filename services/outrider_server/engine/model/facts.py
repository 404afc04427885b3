"""What the engine and its services ask of a model beside its weights. Knows nothing of the library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ...core.description import TokenizerFiles
from ..lengths import LengthRule
from .known_tokens import KnownTokens
from .vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """What a slot cache has to hold of a model, or of a rank's share of one."""

    layers: int
    key_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model that is ready to run, without what it is run by."""

    name: str
    architecture: str
    model_fingerprint: str
    vocabulary: Vocabulary
    end_token_ids: tuple[int, ...]
    max_positions: int
    tokenizer: TokenizerFiles
    parameter_count: int
    generation_defaults: Mapping[str, float]
    dtype: torch.dtype
    device: torch.device
    cache_sizes: CacheSizes
    length_rule: LengthRule
    quantization: str = ""
    """How the weights are quantized, for example "nf4"; empty where they are not."""
    most_positions: int = 0
    """What may be asked for where that is more: a scaled rotary embedding reaches further."""
    ranks: int = 1
    """Processes that share the model out among them; each holds its share."""

    @property
    def vocabulary_size(self) -> int:
        """Ids that can be sent, proposed and drawn."""
        return self.vocabulary.size

    @property
    def drawn_rows(self) -> int:
        """Logits of the model, from its first on, that are drawn from."""
        return self.vocabulary.drawn_rows

    @property
    def known_tokens(self) -> KnownTokens | None:
        """What a draft with a vocabulary of its own knows of the ids; None for other models."""
        return self.vocabulary.known

    @property
    def vocabulary_fingerprint(self) -> str:
        """What a draft and the target that it can guess for have in common."""
        return self.vocabulary.fingerprint
