"""Small models of every architecture, in steps of any size over a packed cache, as the engine runs them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from conformance.architectures import Architecture
from outrider_server.core.progress import silent
from outrider_server.engine.kernels import kernels_missing
from outrider_server.engine.model.architectures import (
    adapt_model,
    attention_at_loading,
    cache_shape,
)
from outrider_server.engine.packed_cache import PackedCache, PackedShape
from outrider_server.engine.program.program import Program
from outrider_server.engine.program.recorded import recorded_model
from outrider_server.engine.ranks.sharing import key_heads
from transformers import AutoModelForCausalLM, PreTrainedModel

SLOTS, LENGTH, MOST = 4, 128, 96


def library_model(architecture: Architecture, dtype: torch.dtype, seed: int = 0) -> PreTrainedModel:
    """A random model with the library's own attention, whose weights have a dtype."""
    torch.manual_seed(seed)
    config = architecture.make()
    return (
        AutoModelForCausalLM.from_config(config, attn_implementation=architecture.reference)
        .to(dtype)
        .eval()
    )


def engine_model(architecture: Architecture, like: PreTrainedModel) -> PreTrainedModel:
    """A model with the same weights, adapted to the engine."""
    config = architecture.make()
    attention = attention_at_loading(config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).to(like.dtype)
    model.load_state_dict(like.state_dict())
    adapt_model(model.eval())
    return model


@dataclass(frozen=True)
class Piece:
    """Tokens of a text from `begin` to `end`, in a slot."""

    slot: int
    begin: int
    end: int


class Steps:
    """A model's steps over a cache of its own."""

    def __init__(self, model: PreTrainedModel) -> None:
        assert not kernels_missing()
        recorded = recorded_model(model, (), silent)
        config = model.config
        shape = PackedShape(SLOTS, key_heads(config, 1), LENGTH, cache_shape(config)[1])
        self.cache = PackedCache(config.num_hidden_layers, shape, model.dtype)
        self.history = torch.zeros((SLOTS, LENGTH), dtype=torch.int64)
        self.program = Program(recorded, self.cache, MOST, self.history)

    def decide(self, text: torch.Tensor, *pieces: Piece) -> torch.Tensor:
        """One step over some pieces of a text [T]: the logits of their tokens, [N, V]."""
        return self.program.decide(inputs_of(text, pieces)).clone()

    def read(self, text: torch.Tensor, *pieces: Piece) -> None:
        self.program.read(inputs_of(text, pieces))

    def spoil(self, slot: int) -> None:
        """Writes what is no number over a slot."""
        for keys, values in self.cache.slot_layers(slot):
            keys.fill_(math.nan)
            values.fill_(math.nan)


def inputs_of(text: torch.Tensor, pieces: tuple[Piece, ...]) -> torch.Tensor:
    """[4, N]: ids, slots, positions, lengths."""
    positions = torch.cat([torch.arange(one.begin, one.end) for one in pieces])
    slots = torch.cat([torch.full((one.end - one.begin,), one.slot) for one in pieces])
    return torch.stack((text[positions], slots, positions, positions + 1))


def text_of(count: int, vocabulary: int, seed: int = 1) -> torch.Tensor:
    """Random tokens [T]."""
    return torch.randint(0, vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


def error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The norm of the difference, relative to what is wanted."""
    return ((got - wanted).norm() / wanted.norm()).item()
