"""The excerpt of a forward pass: its first layers, as far as these compute all that later ones do again.

Layers of one kind are the same instructions over other weights: the same loops, over as many numbers that lie
alike. What could make a token's bits depend on its step is in the first of them as in the others.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from .computations import (
    Attended,
    AttentionRules,
    Buffer,
    Computation,
    Computed,
    LookedUp,
    Multiplied,
    Placed,
    Remembered,
)
from .weights import PackedLayer, Recorded


def excerpt_of(recorded: Recorded) -> Recorded:
    """The shortest beginning with all that is computed before the output layer."""
    lowered = recorded.lowered
    output = max(
        index for index, one in enumerate(lowered.computations) if isinstance(one, Multiplied)
    )
    known: set[Hashable] = set()
    end = 0
    for after, kind in _pieces(lowered.computations[:output], recorded):
        if kind not in known:
            known.add(kind)
            end = after
    begun = replace(lowered, computations=lowered.computations[:end], logits=Buffer(0))
    return replace(recorded, lowered=begun)


def _pieces(
    computations: Sequence[Computation], recorded: Recorded
) -> Iterator[tuple[int, Hashable]]:
    """Where each piece of work ends, and its kind: what the kernels run at once, as `program.h` joins it."""
    after = 0
    for _, piece in groupby(computations, _joined):
        kinds = tuple(_kind(one, recorded) for one in piece)
        after += len(kinds)
        yield after, kinds


def _joined(computation: Computation) -> type[Computation]:
    """Look-ups are computed with what else concerns one token alone."""
    return Computed if isinstance(computation, LookedUp) else type(computation)


def _kind(computation: Computation, recorded: Recorded) -> Hashable:
    """All of a computation but which numbers it is of."""
    match computation:
        case Computed(operation, sizes, out, inputs):
            return operation, sizes, _lie(out, *inputs)
        case LookedUp(table, width, count, out, inputs):
            of = recorded.layers[table].element if isinstance(table, int) else table.dtype
            return LookedUp, of, width, count, _lie(out, *inputs)
        case Multiplied(layer, out, inputs):
            return Multiplied, _sizes(recorded.layers[layer]), _lie(out, *inputs)
        case Remembered(attention, inputs):
            return Remembered, _rules(recorded.lowered.attentions[attention]), _lie(*inputs)
        case Attended(attention, out, inputs):
            rules = recorded.lowered.attentions[attention]
            return Attended, _rules(rules), _lie(out, *inputs)


def _lie(*operands: Placed) -> Hashable:
    """How operands lie."""
    return tuple(
        (one.base.width if isinstance(one.base, Buffer) else None, one.offset, one.strides)
        for one in operands
    )


def _sizes(layer: PackedLayer) -> Hashable:
    parts = (layer.bias, layer.scales, layer.offsets)
    there = tuple(part is not None for part in parts)
    return layer.element, layer.outputs, layer.inputs, layer.group, there


def _rules(rules: AttentionRules) -> Hashable:
    return replace(rules, layer=0, slopes=None), rules.slopes is not None
