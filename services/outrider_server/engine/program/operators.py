"""Rules for operators that compute: arithmetic, functions, reductions and look-ups."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .computations import Computed, Operation, Placed, Rows
from .lowering import Lowering, Rule, Value, rule
from .view_operators import joined
from .views import NotRecorded

Sizes = Sequence[int]


def _elementwise(operation: Operation) -> Rule:
    def lower(lowering: Lowering, sizes: Sizes, *values: Value) -> Rows:
        return lowering.compute(operation, sizes, *values)

    return lower


for _operation, _names in {
    Operation.NEGATE: ("neg.default",),
    Operation.ABSOLUTE: ("abs.default",),
    Operation.SQUARE_ROOT: ("sqrt.default",),
    Operation.RECIPROCAL_SQUARE_ROOT: ("rsqrt.default",),
    Operation.RECIPROCAL: ("reciprocal.default",),
    Operation.EXPONENTIAL: ("exp.default",),
    Operation.LOGARITHM: ("log.default",),
    Operation.SINE: ("sin.default",),
    Operation.COSINE: ("cos.default",),
    Operation.TANH: ("tanh.default",),
    Operation.SIGMOID: ("sigmoid.default",),
    Operation.SILU: ("silu.default",),
    Operation.ERF: ("erf.default",),
    Operation.RELU: ("relu.default",),
    Operation.FLOOR: ("floor.default",),
    Operation.NOT: ("logical_not.default", "bitwise_not.default"),
    Operation.MULTIPLY: ("mul.Tensor", "mul.Scalar"),
    Operation.POWER: ("pow.Scalar", "pow.Tensor_Tensor"),
    Operation.LARGER: ("maximum.default", "clamp_min.default", "clamp_min.Tensor"),
    Operation.SMALLER: ("minimum.default", "clamp_max.default", "clamp_max.Tensor"),
    Operation.EQUAL: ("eq.Tensor", "eq.Scalar"),
    Operation.LESS: ("lt.Tensor", "lt.Scalar"),
    Operation.AT_MOST: ("le.Tensor", "le.Scalar"),
    Operation.AND: ("logical_and.default", "bitwise_and.Tensor"),
    Operation.OR: ("logical_or.default", "bitwise_or.Tensor"),
    Operation.SELECT: ("where.self",),
}.items():
    rule(*(f"aten.{name}" for name in _names))(_elementwise(_operation))


@rule("aten.add.Tensor", "aten.add.Scalar")
def _add(lowering: Lowering, sizes: Sizes, a: Value, b: Value, alpha: float = 1) -> Rows:
    return lowering.compute(Operation.ADD, sizes, a, _scaled(lowering, b, alpha))


@rule("aten.sub.Tensor", "aten.sub.Scalar")
def _subtract(lowering: Lowering, sizes: Sizes, a: Value, b: Value, alpha: float = 1) -> Rows:
    return lowering.compute(Operation.SUBTRACT, sizes, a, _scaled(lowering, b, alpha))


@rule("aten.rsub.Scalar", "aten.rsub.Tensor")
def _subtract_from(lowering: Lowering, sizes: Sizes, a: Value, b: Value, alpha: float = 1) -> Rows:
    return lowering.compute(Operation.SUBTRACT, sizes, b, _scaled(lowering, a, alpha))


def _scaled(lowering: Lowering, value: Value, factor: float) -> Value:
    if factor == 1:
        return value
    if isinstance(value, Rows):
        return lowering.compute(Operation.MULTIPLY, value.sizes, value, factor)
    return value * factor


@rule("aten.div.Tensor", "aten.div.Scalar")
def _divide(lowering: Lowering, sizes: Sizes, a: Value, b: Value) -> Rows:
    return lowering.compute(Operation.DIVIDE, sizes, a, b)


@rule("aten.ne.Tensor", "aten.ne.Scalar")
def _differ(lowering: Lowering, sizes: Sizes, a: Value, b: Value) -> Rows:
    return lowering.compute(Operation.NOT, sizes, lowering.compute(Operation.EQUAL, sizes, a, b))


@rule("aten.gt.Tensor", "aten.gt.Scalar")
def _greater(lowering: Lowering, sizes: Sizes, a: Value, b: Value) -> Rows:
    return lowering.compute(Operation.LESS, sizes, b, a)


@rule("aten.ge.Tensor", "aten.ge.Scalar")
def _at_least(lowering: Lowering, sizes: Sizes, a: Value, b: Value) -> Rows:
    return lowering.compute(Operation.AT_MOST, sizes, b, a)


@rule("aten.pow.Tensor_Scalar")
def _power(lowering: Lowering, sizes: Sizes, a: Rows, exponent: float) -> Rows:
    if exponent == 2:
        return lowering.compute(Operation.MULTIPLY, sizes, a, a)
    if exponent == 3:
        square = lowering.compute(Operation.MULTIPLY, sizes, a, a)
        return lowering.compute(Operation.MULTIPLY, sizes, square, a)
    return lowering.compute(Operation.POWER, sizes, a, exponent)


@rule("aten.hardtanh.default")
def _hard_tanh(lowering: Lowering, sizes: Sizes, a: Rows, low: float = -1, high: float = 1) -> Rows:
    return _clamp(lowering, sizes, a, low, high)


@rule("aten.clamp.default", "aten.clamp.Tensor")
def _clamp(
    lowering: Lowering, sizes: Sizes, a: Rows, low: Value = None, high: Value = None, **named: Value
) -> Rows:
    low, high = named.get("min", low), named.get("max", high)
    if low is not None:
        a = lowering.compute(Operation.LARGER, sizes, a, low)
    if high is not None:
        a = lowering.compute(Operation.SMALLER, sizes, a, high)
    return a


@rule("aten.masked_fill.Scalar", "aten.masked_fill.Tensor")
def _masked(lowering: Lowering, sizes: Sizes, a: Value, mask: Value, value: Value) -> Rows:
    return lowering.compute(Operation.SELECT, sizes, mask, value, a)


@rule("aten.gelu.default")
def _gelu(lowering: Lowering, sizes: Sizes, a: Rows, approximate: str = "none") -> Rows:
    operation = Operation.GELU_TANH if approximate == "tanh" else Operation.GELU
    return lowering.compute(operation, sizes, a)


@rule("aten.mean.dim")
def _mean(
    lowering: Lowering, sizes: Sizes, a: Rows, dims: Sequence[int], keep: bool = False, **_: object
) -> Rows:
    count = 1
    for dim in dims:
        count *= a.sizes[dim]
    return lowering.reduce(Operation.SUM, a, dims, keep, 1 / count)


@rule("aten.sum.dim_IntList")
def _sum(
    lowering: Lowering, sizes: Sizes, a: Rows, dims: Sequence[int], keep: bool = False, **_: object
) -> Rows:
    return lowering.reduce(Operation.SUM, a, dims, keep, 1.0)


@rule("aten.amax.default")
def _largest(
    lowering: Lowering, sizes: Sizes, a: Rows, dims: Sequence[int] = (), keep: bool = False
) -> Rows:
    return lowering.reduce(Operation.LARGEST, a, dims, keep)


@rule("aten._softmax.default")
def _softmax(lowering: Lowering, sizes: Sizes, a: Rows, dim: int, _: object) -> Rows:
    largest = lowering.reduce(Operation.LARGEST, a, [dim], True)
    lower = lowering.compute(Operation.SUBTRACT, sizes, a, largest)
    weights = lowering.compute(Operation.DECAY, sizes, lower)
    total = lowering.reduce(Operation.SUM, weights, [dim], True, 1.0)
    return lowering.compute(Operation.DIVIDE, sizes, weights, total)


@rule("aten.native_layer_norm.default")
def _layer_norm(
    lowering: Lowering,
    sizes: Sizes,
    a: Rows,
    shape: Sequence[int],
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    epsilon: float,
) -> tuple[Rows]:
    """Ba, Kiros, Hinton, arXiv 1607.06450, equation 4."""
    del sizes
    dims = list(range(-len(shape), 0))
    mean = _mean(lowering, (), a, dims, True)
    centred = lowering.compute(Operation.SUBTRACT, a.sizes, a, mean)
    squares = lowering.compute(Operation.MULTIPLY, a.sizes, centred, centred)
    variance = _mean(lowering, (), squares, dims, True)
    shifted = lowering.compute(Operation.ADD, variance.sizes, variance, epsilon)
    inverse = lowering.compute(Operation.RECIPROCAL_SQUARE_ROOT, variance.sizes, shifted)
    out = lowering.compute(Operation.MULTIPLY, a.sizes, centred, inverse)
    if weight is not None:
        out = lowering.compute(Operation.MULTIPLY, a.sizes, out, weight)
    if bias is not None:
        out = lowering.compute(Operation.ADD, a.sizes, out, bias)
    return (out,)


@rule("aten.topk.default")
def _top(
    lowering: Lowering,
    sizes: Sizes,
    a: Rows,
    count: int,
    dim: int = -1,
    largest: bool = True,
    *_: object,
) -> tuple[Rows, Rows]:
    """The largest numbers and where they are, descending; of equal ones the first."""
    del sizes
    if not largest:
        raise NotRecorded("it takes the smallest numbers")
    a = lowering.dense(a)
    if dim % len(a.sizes) != len(a.sizes) - 1 or a.view.numbers != a.sizes[-1]:
        raise NotRecorded("it takes the largest numbers of several dimensions")
    both = lowering.new((*a.sizes[:-1], 2 * count))
    lowering.add(
        Computed(
            Operation.TOP,
            (1, 1, count, a.sizes[-1]),
            Placed(both.buffer),
            (Placed(a.buffer, a.view.offset, (0, 0, 0, 1)),),
        )
    )
    return tuple(
        Rows(both.buffer, both.view.narrowed(len(a.sizes) - 1, begin, count))
        for begin in (0, count)
    )  # type: ignore[return-value]


@rule("aten.embedding.default")
def _embedded(
    lowering: Lowering, sizes: Sizes, table: torch.Tensor, indices: Rows, *_: object
) -> Rows:
    return lowering.look_up(table, indices, sizes)


@rule("aten.index.Tensor")
def _indexed(lowering: Lowering, sizes: Sizes, table: Value, indices: Sequence[Value]) -> Rows:
    """A constant's rows by a step's numbers, or some of a step's numbers by constant indices."""
    given = [(dim, index) for dim, index in enumerate(indices) if index is not None]
    if len(given) != 1:
        raise NotRecorded("it picks numbers by several indices at once")
    ((dim, index),) = given
    if not isinstance(table, Rows) and dim == 0:
        return lowering.look_up(table, _from_the_front(lowering, index, len(table)), sizes)
    if not isinstance(table, Rows) or isinstance(index, Rows) or index.dim() != 1:
        raise NotRecorded("it picks some of a step's own numbers by others")
    size = table.sizes[dim]
    parts = [Rows(table.buffer, table.view.narrowed(dim, one % size, 1)) for one in index.tolist()]
    return parts[0] if len(parts) == 1 else joined(lowering, sizes, parts, dim)


def _from_the_front(lowering: Lowering, index: Rows, rows: int) -> Rows:
    """Those below zero count from the end."""
    below = lowering.compute(Operation.LESS, index.sizes, index, 0.0)
    from_the_end = lowering.compute(Operation.ADD, index.sizes, index, rows)
    return lowering.compute(Operation.SELECT, index.sizes, below, from_the_end, index)
