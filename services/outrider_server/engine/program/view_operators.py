"""Rules for operators that compute nothing: they look at the same numbers in another way, or copy them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .computations import Operation, Rows
from .lowering import Lowering, Value, rule
from .views import TOKENS, NotRecorded

Sizes = Sequence[int]


@rule(
    "aten.alias.default",
    "aten.detach.default",
    "aten.clone.default",
)
def _same(lowering: Lowering, sizes: Sizes, value: Rows, *_: object, **__: object) -> Rows:
    del lowering, sizes
    return value


@rule("aten._to_copy.default")
def _converted(
    lowering: Lowering, sizes: Sizes, value: Rows, dtype: torch.dtype | None = None, **_: object
) -> Rows:
    """Rows are float32 whatever the model says, but what is whole or a truth has no more than that."""
    if dtype is None or dtype.is_floating_point:
        return value
    if dtype == torch.bool:
        zero = lowering.compute(Operation.EQUAL, sizes, value, 0.0)
        return lowering.compute(Operation.NOT, sizes, zero)
    size = lowering.compute(
        Operation.FLOOR, sizes, lowering.compute(Operation.ABSOLUTE, sizes, value)
    )
    below = lowering.compute(Operation.LESS, sizes, value, 0.0)
    negative = lowering.compute(Operation.NEGATE, sizes, size)
    return lowering.compute(Operation.SELECT, sizes, below, negative, size)


@rule("aten.view.default", "aten._unsafe_view.default")
def _reshaped(lowering: Lowering, sizes: Sizes, value: Rows, _: object) -> Rows:
    view = value.view.reshaped(sizes)
    if view is not None:
        return Rows(value.buffer, view)
    copied = lowering.dense(value)
    again = copied.view.reshaped(sizes)
    assert again is not None, "what is dense has every shape"
    return Rows(copied.buffer, again)


@rule("aten.transpose.int")
def _transposed(lowering: Lowering, sizes: Sizes, value: Rows, first: int, second: int) -> Rows:
    order = list(range(len(value.sizes)))
    order[first], order[second] = order[second], order[first]
    return _permuted(lowering, sizes, value, order)


@rule("aten.t.default")
def _turned(lowering: Lowering, sizes: Sizes, value: Rows) -> Rows:
    return _permuted(lowering, sizes, value, list(reversed(range(len(value.sizes)))))


@rule("aten.permute.default")
def _permuted(lowering: Lowering, sizes: Sizes, value: Rows, order: Sequence[int]) -> Rows:
    del lowering, sizes
    return Rows(value.buffer, value.view.moved([dim % len(value.sizes) for dim in order]))


@rule("aten.expand.default")
def _expanded(lowering: Lowering, sizes: Sizes, value: Rows, *_: object, **__: object) -> Rows:
    del lowering
    if len(sizes) - len(value.sizes) + value.view.token_dim != list(sizes).index(TOKENS):
        raise NotRecorded("it spreads tokens over each other")
    return Rows(value.buffer, value.view.expanded(sizes))


@rule("aten.unsqueeze.default")
def _unsqueezed(lowering: Lowering, sizes: Sizes, value: Rows, dim: int) -> Rows:
    del lowering
    dim %= len(sizes)
    view = value.view
    strides = (*view.strides[:dim], 0, *view.strides[dim:])
    return Rows(value.buffer, type(view)(tuple(sizes), strides, view.offset))


@rule("aten.squeeze.dim", "aten.squeeze.dims", "aten.squeeze.default")
def _squeezed(lowering: Lowering, sizes: Sizes, value: Rows, *_: object) -> Rows:
    return _reshaped(lowering, sizes, value, None)


@rule("aten.slice.Tensor")
def _sliced(
    lowering: Lowering,
    sizes: Sizes,
    value: Rows,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Rows:
    del lowering, end
    dim %= len(value.sizes)
    first = start or 0
    first = max(0, first + value.sizes[dim]) if first < 0 else first
    return Rows(value.buffer, value.view.narrowed(dim, first, sizes[dim], step))


@rule("aten.select.int")
def _selected(lowering: Lowering, sizes: Sizes, value: Rows, dim: int, index: int) -> Rows:
    del lowering, sizes
    dim %= len(value.sizes)
    narrowed = value.view.narrowed(dim, index % value.sizes[dim], 1)
    return Rows(value.buffer, narrowed.without(dim))


@rule("aten.unbind.int")
def _unbound(lowering: Lowering, sizes: Sizes, value: Rows, dim: int = 0) -> list[Rows]:
    return [
        _selected(lowering, sizes, value, dim, index)
        for index in range(value.sizes[dim % len(value.sizes)])
    ]


@rule("aten.split_with_sizes.default")
def _split(
    lowering: Lowering, sizes: Sizes, value: Rows, parts: Sequence[int], dim: int = 0
) -> list[Rows]:
    del lowering, sizes
    dim %= len(value.sizes)
    begins = [sum(parts[:index]) for index in range(len(parts))]
    return [
        Rows(value.buffer, value.view.narrowed(dim, begin, part))
        for begin, part in zip(begins, parts, strict=True)
    ]


@rule("aten.split.Tensor")
def _split_alike(
    lowering: Lowering, sizes: Sizes, value: Rows, part: int, dim: int = 0
) -> list[Rows]:
    whole = value.sizes[dim % len(value.sizes)]
    parts = [min(part, whole - begin) for begin in range(0, whole, part)]
    return _split(lowering, sizes, value, parts, dim)


@rule("aten.cat.default")
def joined(lowering: Lowering, sizes: Sizes, values: Sequence[Value], dim: int = 0) -> Rows:
    """Values behind each other along a dimension, in rows of their own."""
    dim %= len(sizes)
    out = lowering.new(sizes)
    begin = 0
    for value in values:
        size = value.sizes[dim] if isinstance(value, Rows) else value.shape[dim]
        part = Rows(out.buffer, out.view.narrowed(dim, begin, size))
        lowering.compute(Operation.COPY, part.sizes, value, out=part)
        begin += size
    return out


@rule("aten.stack.default")
def _stacked(lowering: Lowering, sizes: Sizes, values: Sequence[Value], dim: int = 0) -> Rows:
    dim %= len(sizes)
    one = (*sizes[:dim], 1, *sizes[dim + 1 :])
    widened = [
        _unsqueezed(lowering, one, value, dim) if isinstance(value, Rows) else value.unsqueeze(dim)
        for value in values
    ]
    return joined(lowering, sizes, widened, dim)


@rule("aten.repeat.default")
def _repeated(lowering: Lowering, sizes: Sizes, value: Rows, repeats: Sequence[int]) -> Rows:
    missing = len(repeats) - len(value.sizes)
    split: list[int] = []
    for count, size in zip(repeats, (1,) * missing + value.sizes, strict=True):
        split += [count, size]
    spread = lowering.new(split)
    folded = _reshaped(
        lowering, [n for size in (1,) * missing + value.sizes for n in (1, size)], value, None
    )
    lowering.compute(Operation.COPY, split, folded, out=spread)
    return _reshaped(lowering, sizes, spread, None)
