"""A model's forward pass as the kernels run it: recorded, lowered, packed and assembled.

Owns everything that the kernels are given by address: instructions, constants, packed weights and the arena of
rows. Not thread-safe: one thread runs steps.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...core.progress import Progress, silent
from ..kernels.library import kernel_library
from ..packed_cache import PackedCache, zeros
from .assembling import assemble
from .computations import AttentionRules, Lowered
from .lowering import Lowering
from .tables import ELEMENTS, Attention, Code, Element, Instruction, Layer, Step, Table
from .weights import PackedLayer, Weights


class Program:
    """The forward pass of one model over one slot cache, for steps of at most `capacity` tokens."""

    def __init__(
        self, lowered: Lowered, weights: Weights, cache: PackedCache, capacity: int
    ) -> None:
        assembled = assemble(lowered, capacity)
        arena = assembled.arena
        self.weights = weights
        self._written = assembled.written
        self._end = len(assembled.instructions)
        self._arena = zeros(arena.numbers, torch.float32)
        self._logits = self._arena[arena.row * capacity :].view(capacity, lowered.logits.width)
        self._kept: list[Any] = [assembled.constants, cache]
        code = Code(
            instructions=_array(Instruction, assembled.instructions),
            tables=_array(Table, [self._table(each) for each in assembled.tables]),
            layers=_array(Layer, [_layer(each) for each in weights.layers]),
            attentions=_array(
                Attention, [self._attention(each, cache) for each in lowered.attentions]
            ),
            arena=self._arena.data_ptr(),
            instruction_count=self._end,
            row=arena.row,
            ids=arena.place(lowered.ids),
            positions=arena.place(lowered.positions),
            lengths=arena.place(lowered.lengths),
        )
        self._kept.append(code)
        self._made = kernel_library().make(code)
        weakref.finalize(self, kernel_library().free, self._made)

    def decide(self, inputs: torch.Tensor) -> torch.Tensor:
        """[4, N] int64, contiguous: ids, slots, positions, lengths -> float32 logits [N, V], until the next step."""
        self._run(inputs, self._end)
        return self._logits[: inputs.shape[1]]

    def read(self, inputs: torch.Tensor) -> None:
        """Writes the tokens' keys and values, and computes no more than these need. Inputs as in `decide`."""
        self._run(inputs, self._written)

    def _run(self, inputs: torch.Tensor, end: int) -> None:
        tokens = inputs.shape[1]
        first = inputs.data_ptr()
        ids, slots, positions, lengths = (first + 8 * tokens * kind for kind in range(4))
        kernel_library().run(self._made, Step(tokens, ids, slots, positions, lengths), end)

    def _table(self, table: torch.Tensor) -> Table:
        packed = self.weights.packed_table(table)
        rows, width = table.shape
        if packed is not None:
            return Table(packed.packed.data_ptr(), packed.element, rows, width, 1)
        if table.dtype not in ELEMENTS:
            table = table.float()
        table = table.contiguous()
        self._kept.append(table)
        return Table(table.data_ptr(), ELEMENTS[table.dtype], rows, width, 0)

    def _attention(self, rules: AttentionRules, cache: PackedCache) -> Attention:
        keys, values = cache.addresses(rules.layer)
        slopes = None if rules.slopes is None else rules.slopes.float().contiguous()
        self._kept.append(slopes)
        return Attention(
            keys,
            values,
            None if slopes is None else slopes.data_ptr(),
            ELEMENTS[cache.dtype],
            rules.heads,
            rules.key_heads,
            rules.head_dim,
            cache.length,
            rules.window,
            rules.scaling,
            rules.softcap,
        )


def _layer(layer: PackedLayer) -> Layer:
    blocks = 1 if layer.scales is None else layer.scales.shape[1]
    return Layer(
        layer.packed.data_ptr(),
        _address(layer.bias),
        _address(layer.scales),
        _address(layer.codes),
        layer.element,
        layer.outputs,
        layer.inputs,
        blocks > 1,
    )


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _array(kind: type[Any], items: Sequence[Any]) -> Any:
    return (kind * max(1, len(items)))(*items)


del Element, nn, silent, Progress, Lowering
