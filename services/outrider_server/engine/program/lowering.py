"""Lowers a recording to computations: each operator of the recording by its rule.

Owns what the recording's tensors have become: constants, which are computed here and now, and rows, which a
step computes. The rules are those of `operators.py`, `view_operators.py` and `layer_operators.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, TypeVar

import torch
from torch.fx import Graph, GraphModule, Node

from .computations import (
    LOOPS,
    AttentionRules,
    Buffer,
    Computation,
    Computed,
    LinearWeight,
    LookedUp,
    Lowered,
    Operation,
    Placed,
    QuantizedLayer,
    Rows,
)
from .tables import ELEMENTS
from .views import TOKENS, NotRecorded, dense_view, merged

Value = Any
"""Rows, a constant tensor, a number, a sequence of these, or None."""
Rule = Callable[..., Value]
"""Takes (lowering, sizes of the outcome, the operator's own arguments); several outcomes have no sizes."""
Named = TypeVar("Named", bound=Rule)
RULES: dict[str, Rule] = {}
"""By the operator's name, as "aten.add.Tensor"."""
TRUTHS = ("aten.bitwise_and.Tensor", "aten.bitwise_or.Tensor", "aten.bitwise_not.default")
"""Operators whose rules are for truths alone, and not for the bits of whole numbers."""


def rule(*names: str) -> Callable[[Named], Named]:
    """Makes a function the rule of some operators."""

    def add(function: Named) -> Named:
        for name in names:
            RULES[name] = function
        return function

    return add


class Lowering:
    """The state of one: computations so far, and what each tensor of the recording has become."""

    def __init__(self) -> None:
        self.lowered = Lowered()
        self._numbers: dict[object, int] = {}

    def lower(self, recorded: GraphModule) -> Lowered:
        """What a recording comes to. Raises NotRecorded."""
        _write_to_new(recorded.graph)
        inputs = iter((self.lowered.ids, self.lowered.positions, self.lowered.lengths))
        values: dict[Node, Value] = {}
        for node in recorded.graph.nodes:
            if node.op == "placeholder":
                values[node] = Rows(next(inputs), dense_view((1, TOKENS)))
            elif node.op == "get_attr":
                values[node] = getattr(recorded, str(node.target)).detach()
            elif node.op == "output":
                self.lowered.logits = self.dense(values[node.args[0]]).buffer
            else:
                arguments = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
                values[node] = self._outcome(node, *arguments)
        return self.lowered

    def _outcome(self, node: Node, positional: Sequence[Value], named: dict[str, Value]) -> Value:
        name = str(node.target)
        if name == "<built-in function getitem>":
            return positional[0][positional[1]]
        sizes = _sizes(node)
        if not _has_rows((positional, tuple(named.values()))):
            if sizes is not None and TOKENS in sizes:
                return _same_for_all_tokens(name, sizes, positional, named)
            return node.target(*positional, **named)  # type: ignore[operator]
        if name not in RULES or (name in TRUTHS and node.meta["val"].dtype != torch.bool):
            raise NotRecorded(f"it computes {name}")
        return RULES[name](self, sizes, *positional, **named)

    def new(self, sizes: Sequence[int]) -> Rows:
        """Rows of a buffer of their own."""
        view = dense_view(sizes)
        return Rows(Buffer(view.numbers), view)

    def dense(self, rows: Rows) -> Rows:
        """The same numbers in order, filling a buffer: themselves, or a copy."""
        if rows.view.dense and rows.view.offset == 0 and rows.view.numbers == rows.buffer.width:
            return rows
        return self.compute(Operation.COPY, rows.sizes, rows)

    def in_line(self, rows: Rows) -> Rows:
        """The same numbers in order, without gaps: themselves, maybe within a longer row, or a copy."""
        return rows if rows.view.dense else self.compute(Operation.COPY, rows.sizes, rows)

    def compute(
        self, operation: Operation, sizes: Sequence[int], *inputs: Value, out: Rows | None = None
    ) -> Rows:
        """Number by number, over inputs that are expanded to `sizes`; into `out`, or rows of their own."""
        out = self.new(sizes) if out is None else out
        where = out.view.token_dim
        operands = [_expanded(out, sizes), *(_expanded(value, sizes) for value in inputs)]
        loops = [
            (size, tuple(strides[dim] for _, _, strides in operands))
            for dim, size in enumerate(sizes)
            if dim != where
        ]
        self._add(operation, merged(loops), operands)
        return out

    def reduce(
        self, operation: Operation, value: Rows, dims: Sequence[int], keep: bool, *scale: float
    ) -> Rows:
        """Over some dimensions; a sum is then multiplied by `scale`."""
        sizes = value.sizes
        dims = sorted(dim % len(sizes) for dim in dims)
        if not dims or value.view.token_dim in dims:  # no dimensions are all of them
            raise NotRecorded("it reduces over a step's tokens")
        kept = self.new([1 if dim in dims else size for dim, size in enumerate(sizes)])
        strides = [0 if dim in dims else stride for dim, stride in enumerate(kept.view.strides)]
        operands: list[tuple[Any, int, Sequence[int]]] = [
            (kept.buffer, 0, strides),
            (value.buffer, value.view.offset, value.view.strides),
        ]
        operands += [(torch.tensor(one), 0, (0,) * len(sizes)) for one in scale]

        def loops(wanted: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
            return merged([(sizes[dim], tuple(o[2][dim] for o in operands)) for dim in wanted])

        outer = [d for d in range(len(sizes)) if d not in dims and d != value.view.token_dim]
        inner = loops(dims) or [(1, (0,) * len(operands))]
        if len(inner) > 1:
            raise NotRecorded("it reduces over dimensions that do not follow each other")
        self._add(operation, [*loops(outer), *inner], operands)
        if keep:
            return kept
        view = kept.view
        for dim in reversed(dims):
            view = view.without(dim)
        return Rows(kept.buffer, view)

    def look_up(self, table: torch.Tensor, indices: Rows, sizes: Sequence[int]) -> Rows:
        """Rows of a table [rows, ...] by indices that have the first dimensions of `sizes`."""
        out = self.new(sizes)
        width = prod(table.shape[1:])
        inner = merged(
            [
                (size, (stride,))
                for size, stride in zip(indices.sizes, indices.view.strides, strict=True)
                if size != TOKENS
            ]
        )
        if len(inner) > 1 or TOKENS not in sizes[: len(indices.sizes)]:
            raise NotRecorded("it looks up by indices that do not follow each other")
        count, (stride,) = inner[0] if inner else (1, (0,))
        self.lowered.computations.append(
            LookedUp(
                table.reshape(len(table), width),
                width,
                count,
                Placed(out.buffer, 0, (0, 0, width, 1)),
                (Placed(indices.buffer, indices.view.offset, (0, 0, stride, 0)),),
            )
        )
        return out

    def layer_of(self, weight: torch.Tensor, bias: torch.Tensor | None) -> int:
        """The number of the layer with this weight [N, K] and bias. Raises NotRecorded for other dtypes."""
        if weight.dtype not in ELEMENTS:
            named = str(weight.dtype).removeprefix("torch.")
            raise NotRecorded(f"it multiplies by weights of {named}")
        key = _memory(weight), None if bias is None else _memory(bias)
        if key not in self._numbers:
            self._numbers[key] = len(self.lowered.layers)
            self.lowered.layers.append(LinearWeight(weight, bias))
        return self._numbers[key]

    def quantized_layer(self, index: int) -> int:
        """The number of one of the model's quantized layers."""
        self.lowered.layers.append(QuantizedLayer(index))
        return len(self.lowered.layers) - 1

    def rules_of(self, attention: AttentionRules) -> int:
        """The number of a layer's attention."""
        self.lowered.attentions.append(attention)
        return len(self.lowered.attentions) - 1

    def add(self, computation: Computation) -> None:
        """Adds what has been placed already."""
        self.lowered.computations.append(computation)

    def _add(
        self,
        operation: Operation,
        loops: Sequence[tuple[int, tuple[int, ...]]],
        operands: Sequence[tuple[Any, int, Sequence[int]]],
    ) -> None:
        if len(loops) > LOOPS:
            raise NotRecorded("it computes over too many dimensions that do not follow each other")
        padded = [(1, (0,) * len(operands))] * (LOOPS - len(loops)) + list(loops)
        placed = [
            Placed(base, offset, tuple(strides[index] for _, strides in padded))
            for index, (base, offset, _) in enumerate(operands)
        ]
        sizes = tuple(size for size, _ in padded)
        self.add(Computed(operation, sizes, placed[0], tuple(placed[1:])))


def _write_to_new(graph: Graph) -> None:
    """Has what writes over a tensor of its own, which nothing else reads, give a new one instead."""
    for node in graph.nodes:
        target, changed = node.target, node.args[0] if node.args else None
        if not isinstance(target, torch._ops.OpOverload) or not target._opname.endswith("_"):
            continue
        if isinstance(changed, Node) and len(changed.users) == 1 and _is_new(changed):
            functions = getattr(torch.ops, target.namespace)
            node.target = getattr(getattr(functions, target._opname[:-1]), target._overloadname)


def _is_new(node: Node) -> bool:
    """Whether a node's outcome is memory of its own, no other tensor's."""
    made_by = node.target
    return isinstance(made_by, torch._ops.OpOverload) and not any(
        returned.alias_info for returned in made_by._schema.returns
    )


def _memory(tensor: torch.Tensor) -> object:
    """The same for tensors that are the same numbers in memory, as long as these are there."""
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _expanded(value: Value, sizes: Sequence[int]) -> tuple[Any, int, tuple[int, ...]]:
    """What an operand is within rows of these sizes: its base, offset and strides."""
    if isinstance(value, Rows):
        view = value.view.expanded(sizes)
        return value.buffer, view.offset, view.strides
    constant = torch.as_tensor(value).detach().to(torch.float32)
    alike = [1 if size == TOKENS else size for size in sizes]
    try:
        expanded = constant.expand(alike)
    except RuntimeError as error:
        raise NotRecorded("it has a constant for each of a step's tokens") from error
    return constant, 0, expanded.stride()


def _same_for_all_tokens(
    name: str, sizes: Sequence[int], positional: Sequence[Value], named: dict[str, Value]
) -> torch.Tensor:
    """A constant that has a number for each token, the same for all: with one token in their place."""
    alike = [1 if size == TOKENS else size for size in sizes]
    if name == "aten.full.default":
        return torch.full(alike, float(positional[1]))
    if name in ("aten.zeros.default", "aten.ones.default"):
        return torch.full(alike, float(name == "aten.ones.default"))
    if name == "aten.expand.default":
        one: torch.Tensor = positional[0]
        return one.expand(alike)
    raise NotRecorded(f"it computes {name} of the number of tokens")


def _has_rows(value: Value) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_rows(one) for one in value)
    return isinstance(value, Rows)


def _sizes(node: Node) -> tuple[int, ...] | None:
    """Of a node's outcome; None where it has several."""
    value = node.meta.get("val")
    return tuple(map(int, value.shape)) if isinstance(value, torch.Tensor) else None
