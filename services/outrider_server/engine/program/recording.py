"""Records a model's forward pass: the operators that it applies to its tokens, without computing anything.

The model runs once over tensors that have sizes and no content (torch's fake tensors). Attention, with the
writing of keys and values, and quantized layers are recorded as operators of their own, whose content the
engine's kernels know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from transformers import AttentionInterface, PreTrainedModel
from transformers.cache_utils import Cache, StaticLayer

from ..attention.attention import SLOPES, check_call, registered_name, set_kernel
from ..attention.attention_names import PACKED
from ..cache_argument import cache_argument
from ..model.quantized_weights import is_quantized
from ..model.rotary import LengthRotary
from .views import TOKENS


def _recorded_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    layer: int,
    scaling: float,
    slopes: torch.Tensor | None,
    softcap: float,
    window: int,
) -> torch.Tensor:
    """query [1, H, T, D]; keys, values [1, K, T, D], those of the step's own tokens -> [1, T, H, D]."""
    return query.new_empty((1, query.shape[2], query.shape[1], values.shape[-1]))


def _recorded_product(tokens: torch.Tensor, index: int, outputs: int) -> torch.Tensor:
    """tokens [..., K] -> [..., outputs], by one of the model's quantized layers."""
    return tokens.new_empty((*tokens.shape[:-1], outputs))


for _name, _function in (
    ("recorded_attention", _recorded_attention),
    ("recorded_product", _recorded_product),
):
    torch.library.custom_op(f"outrider::{_name}", _function, mutates_args=()).register_fake(
        _function
    )


class RecordedLayer(StaticLayer):  # type: ignore[no-untyped-call]
    """Stands for a layer of the slot cache: hands on the step's own keys and values."""

    def __init__(self, index: int, cache: RecordedCache, places: torch.Tensor) -> None:
        super().__init__(max_cache_len=TOKENS)
        self.index = index
        self.cache = cache
        self.places = places
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Notes which layer attention is of that follows."""
        self.cache.last = self.index
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Nothing: rows have lengths of their own."""
        return 0


class RecordedCache(Cache):
    """Stands for the slot cache."""

    def __init__(self, layers: int, places: torch.Tensor) -> None:
        super().__init__(layers=[RecordedLayer(index, self, places) for index in range(layers)])
        self.last = 0


_cache: RecordedCache | None = None
"""Of the recording that runs: the library calls attention without it."""


def _attention_of_library(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **extras: object,
) -> tuple[torch.Tensor, None]:
    """The shape of function that the library's registry wants."""
    assert _cache is not None, "attention of a recording runs within one"
    check_call(module, attention_mask, extras)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    slopes = getattr(module, SLOPES, None)
    return torch.ops.outrider.recorded_attention.default(
        query, key, value, _cache.last, scale, slopes, softcap or 0.0, sliding_window or 0
    ), None


AttentionInterface.register(registered_name(PACKED), _attention_of_library)


@contextmanager
def _recorded_products(layers: Sequence[Any]) -> Iterator[None]:
    """Has quantized layers record themselves as one operator."""
    kept = [layer.__dict__.get("forward") for layer in layers]
    for index, layer in enumerate(layers):
        layer.forward = lambda tokens, index=index, outputs=layer.out_features: (
            torch.ops.outrider.recorded_product.default(tokens, index, outputs)
        )
    try:
        yield
    finally:
        for layer, before in zip(layers, kept, strict=True):
            del layer.forward
            if before is not None:
                layer.forward = before


@contextmanager
def _unchanged(model: PreTrainedModel) -> Iterator[None]:
    """Undoes what modules set of themselves while they are recorded: tensors without content."""
    kept = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, buffers in kept:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)


def quantized_layers(model: PreTrainedModel) -> list[Any]:
    """Those that a recording names by their index."""
    return [module for module in model.modules() if is_quantized(module)]


def record(model: PreTrainedModel, rotaries: Sequence[LengthRotary]) -> GraphModule:
    """What the model makes of ids, positions and lengths [1, TOKENS]: logits [1, TOKENS, V].

    Raises ModelRefused for attention that is not served, and whatever the model raises where it looks at the
    content of its tokens.
    """
    global _cache
    inputs = [torch.zeros((1, TOKENS), dtype=torch.int64) for _ in range(3)]
    layers = int(model.config.num_hidden_layers)
    name = cache_argument(model)

    def forward(ids: torch.Tensor, positions: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        places = torch.stack((ids, positions), dim=-1).unsqueeze(1)
        global _cache
        _cache = RecordedCache(layers, places)
        for rotary in rotaries:
            rotary.place(lengths)
        output = model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=places,
            use_cache=True,
            **{name: _cache},
        )
        logits: torch.Tensor = output.logits
        return logits

    before = model.config._attn_implementation
    set_kernel(model, PACKED)
    try:
        with torch.no_grad(), _unchanged(model), _recorded_products(quantized_layers(model)):
            trace = make_fx(
                torch.func.functionalize(forward, remove="mutations"),
                tracing_mode="fake",
                _allow_non_fake_inputs=True,
            )
            recorded = trace(*inputs)
    finally:
        _cache = None
        model.config._attn_implementation = before
    recorded.graph.eliminate_dead_code()
    return recorded
