"""Rules for operators over all tokens of a step: linear layers, and attention over the slot cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .computations import (
    Attended,
    AttentionRules,
    Multiplied,
    Operation,
    Placed,
    Remembered,
    Rows,
)
from .lowering import Lowering, Value, rule
from .views import NotRecorded

Sizes = Sequence[int]


@rule("aten.mm.default")
def _product(lowering: Lowering, sizes: Sizes, tokens: Value, weight: Value) -> Rows:
    return _layer(lowering, sizes, tokens, weight, None)


@rule("aten.addmm.default")
def _product_and_bias(
    lowering: Lowering, sizes: Sizes, bias: Value, tokens: Value, weight: Value
) -> Rows:
    return _layer(lowering, sizes, tokens, weight, bias)


def _layer(lowering: Lowering, sizes: Sizes, tokens: Value, weight: Value, bias: Value) -> Rows:
    """tokens [TOKENS, K]; weight [K, N], bias [N]."""
    if not isinstance(tokens, Rows) or isinstance(weight, Rows) or isinstance(bias, Rows):
        raise NotRecorded("it multiplies a step's tokens with each other")
    return _multiplied(lowering, sizes, tokens, lowering.layer_of(weight.t(), bias))


@rule("outrider.recorded_product.default")
def _quantized_layer(lowering: Lowering, sizes: Sizes, tokens: Rows, index: int, _: int) -> Rows:
    return _multiplied(lowering, sizes, tokens, lowering.quantized_layer(index))


def _multiplied(lowering: Lowering, sizes: Sizes, tokens: Rows, layer: int) -> Rows:
    out = lowering.new(sizes)
    tokens = lowering.in_line(tokens)
    lowering.add(
        Multiplied(layer, Placed(out.buffer), (Placed(tokens.buffer, tokens.view.offset),))
    )
    return out


@rule("outrider.recorded_attention.default")
def _attention(
    lowering: Lowering,
    sizes: Sizes,
    query: Rows,
    keys: Rows,
    values: Rows,
    layer: int,
    scaling: float,
    slopes: torch.Tensor | None,
    softcap: float,
    window: int,
) -> Rows:
    """query [1, H, TOKENS, D]; keys, values [1, K, TOKENS, D] -> [1, TOKENS, H, D]."""
    heads, head_dim = query.sizes[1], query.sizes[3]
    if values.sizes[3] != head_dim:
        raise NotRecorded("its keys and values have other sizes")
    number = lowering.rules_of(
        AttentionRules(layer, heads, keys.sizes[1], head_dim, scaling, softcap, window, slopes)
    )
    lowering.add(Remembered(number, tuple(_heads(lowering, one) for one in (keys, values))))
    out = lowering.new(sizes)
    place = Placed(out.buffer, 0, (0, 0, head_dim, 1))
    lowering.add(Attended(number, place, (_heads(lowering, query),)))
    return out


def _heads(lowering: Lowering, rows: Rows) -> Placed:
    """[1, H, TOKENS, D], whose heads are dense."""
    if rows.view.strides[3] != 1 and rows.sizes[3] > 1:
        rows = lowering.compute(Operation.COPY, rows.sizes, rows)
    return Placed(rows.buffer, rows.view.offset, (0, 0, rows.view.strides[1], 1))
