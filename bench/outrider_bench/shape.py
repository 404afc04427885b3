"""The sizes of a Llama, read from its folder. Knows no weights, and so no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from outrider_server.core.errors import StartupError

from .model_cache import read_config


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Llama. `heads` query heads share `key_value_heads`; all have `head_size` values."""

    hidden: int
    layers: int
    feed_forward: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied: bool

    @classmethod
    def of(cls, folder: Path) -> Shape:
        """The sizes of the model in a folder. Raises StartupError unless it is a Llama of the plain kind."""
        config = read_config(folder)
        if config.get("model_type") != "llama":
            raise StartupError(f"only a Llama can be widened or converted; {folder} is not one")
        heads = int(config["num_attention_heads"])
        hidden = int(config["hidden_size"])
        shape = cls(
            hidden,
            int(config["num_hidden_layers"]),
            int(config["intermediate_size"]),
            heads,
            int(config.get("num_key_value_heads") or heads),
            int(config.get("head_dim") or hidden // heads),
            int(config["vocab_size"]),
            bool(config.get("tie_word_embeddings", False)),
        )
        if shape.heads * shape.head_size != hidden or config.get("attention_bias"):
            raise StartupError(f"{folder} has heads of a shape that cannot be widened")
        return shape

    @property
    def parameters(self) -> int:
        """The number of weights."""
        keys = self.key_value_heads * self.head_size
        attention = 2 * self.hidden * self.heads * self.head_size + 2 * self.hidden * keys
        layer = attention + 3 * self.hidden * self.feed_forward + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * layer + embeddings + self.hidden
