"""A model's forward pass as the kernels run it: recorded, lowered, packed and assembled.

Owns everything that the kernels are given by address: instructions, constants, packed weights and the arena
of rows. Not thread-safe: one thread runs steps.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import torch

from ..kernels.library import kernel_library
from ..packed_cache import PackedCache, Pages
from .assembling import assemble
from .computations import AttentionRules
from .excerpt import excerpt_of
from .tables import ELEMENTS, Attention, Code, Instruction, Layer, Step, Table
from .weights import PackedLayer, Recorded


class Program:
    """The forward pass of one model over one slot cache, for steps of at most `capacity` tokens."""

    def __init__(
        self,
        recorded: Recorded,
        cache: PackedCache,
        capacity: int,
        history: torch.Tensor,
        own_ids: torch.Tensor | None = None,
        apart: bool = False,
    ) -> None:
        """`history` [slots, positions] int64 takes every token that is read. `own_ids` [V] int64 are the
        model's for each id of a step, where it has others. `apart` is `assemble`'s."""
        lowered = recorded.lowered
        assembled = assemble(lowered, capacity, apart)
        arena = assembled.arena
        self.capacity = capacity
        self._cache, self._history, self._recorded = cache, history, recorded
        self._own_ids = own_ids
        self._layers = recorded.layers
        self._written = assembled.written
        self._end = len(assembled.instructions)
        self._arena = Pages((arena.numbers,), torch.float32).tensor
        self._logits = self._arena[arena.row * capacity :].view(capacity, lowered.logits.width)
        self._rows = self._arena[: arena.row * capacity].view(capacity, arena.row)
        self._kept: list[Any] = [assembled.constants]
        code = Code(
            instructions=_array(Instruction, assembled.instructions),
            tables=_array(Table, [self._table(each) for each in assembled.tables]),
            layers=_array(Layer, [_layer(each) for each in recorded.layers]),
            attentions=_array(
                Attention, [self._attention(each, cache) for each in lowered.attentions]
            ),
            arena=self._arena.data_ptr(),
            instruction_count=self._end,
            history=history.data_ptr(),
            history_length=history.shape[1],
            row=arena.row,
            ids=arena.place(lowered.ids),
            positions=arena.place(lowered.positions),
            lengths=arena.place(lowered.lengths),
            own_ids=_address(own_ids),
        )
        self._kept.append(code)
        self._made = kernel_library().make(code)
        weakref.finalize(self, kernel_library().free, self._made)

    def decide(self, inputs: torch.Tensor) -> torch.Tensor:
        """[4, N] int64: ids, slots, positions, lengths, each contiguous -> float32 logits [N, V].

        These are there until the next step.
        """
        self._run(inputs, self._end)
        return self._logits[: inputs.shape[1]]

    def read(self, inputs: torch.Tensor) -> None:
        """Writes the tokens' keys and values, and computes no more than these need. Inputs as in `decide`."""
        self._run(inputs, self._written)

    def excerpt(self) -> Program:
        """Its first layers, over the same cache, whose buffers lie apart; see `excerpt.py`."""
        begun = excerpt_of(self._recorded)
        return Program(begun, self._cache, self.capacity, self._history, self._own_ids, apart=True)

    def compute(self, inputs: torch.Tensor) -> torch.Tensor:
        """All that a program whose buffers lie apart computes of each token, float32 [N, ...]; inputs as in
        `decide`. They are there until the next step."""
        self._run(inputs, self._end)
        return self._rows[: inputs.shape[1]]

    def _run(self, inputs: torch.Tensor, end: int) -> None:
        tokens = inputs.shape[1]
        assert tokens <= self.capacity
        first, apart = inputs.data_ptr(), inputs.stride(0) * inputs.itemsize
        ids, slots, positions, lengths = (first + apart * kind for kind in range(len(inputs)))
        kernel_library().run(self._made, Step(tokens, ids, slots, positions, lengths), end)

    def _table(self, table: torch.Tensor | int) -> Table:
        if isinstance(table, int):
            layer = self._layers[table]
            return Table(layer.packed.data_ptr(), layer.element, layer.outputs, layer.inputs, 1)
        held = (table if table.dtype in ELEMENTS else table.float()).contiguous()
        self._kept.append(held)
        return Table(held.data_ptr(), ELEMENTS[held.dtype], *held.shape, 0)

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
            cache.shape.length,
            rules.window,
            rules.scaling,
            rules.softcap,
        )


def _layer(layer: PackedLayer) -> Layer:
    return Layer(
        layer.packed.data_ptr(),
        _address(layer.bias),
        _address(layer.scales),
        _address(layer.offsets),
        _address(layer.codes),
        layer.element,
        layer.outputs,
        layer.inputs,
        layer.group,
    )


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _array(kind: type[Any], items: Sequence[Any]) -> Any:
    return (kind * max(1, len(items)))(*items)
