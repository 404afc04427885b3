"""Assembles computations to instructions: every buffer gets its place in the arena, every table its number.

The arena has a row for each token, in which buffers share places as soon as nothing later reads what one
holds. Logits lie behind all rows, so that they follow each other without gaps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from .computations import (
    Attended,
    Buffer,
    Computation,
    Computed,
    LookedUp,
    Lowered,
    Multiplied,
    Operation,
    Placed,
    Remembered,
    StoredMatrix,
)
from .tables import Instruction, Kind, Operand, Space

LINE = 16
"""Numbers of a cache line: a buffer begins with one."""
PAGE = 1024
"""Numbers of a page of memory: rows that begin alike within pages would share a few lines of the caches."""


@dataclass(frozen=True, slots=True)
class Arena:
    """Where buffers lie, for steps of at most `capacity` tokens; in numbers from the arena's beginning."""

    places: dict[Buffer, int]
    row: int
    """Numbers of a token's row."""
    logits: Buffer
    capacity: int

    def place(self, buffer: Buffer) -> int:
        """Of the first token."""
        return self.row * self.capacity if buffer is self.logits else self.places[buffer]

    def stride(self, buffer: Buffer) -> int:
        """From a token to the next."""
        return buffer.width if buffer is self.logits else self.row

    @property
    def numbers(self) -> int:
        """Of the whole arena."""
        return (self.row + self.logits.width) * self.capacity


@dataclass(slots=True)
class Assembled:
    """Instructions, and what they name: constants by their addresses, tables by their numbers."""

    arena: Arena
    instructions: list[Instruction] = field(default_factory=list)
    constants: list[torch.Tensor] = field(default_factory=list)
    tables: list[torch.Tensor | int] = field(default_factory=list)
    """Or the numbers of layers whose weights they are."""
    written: int = 0
    """So many of the first instructions write all keys and values."""


def assemble(lowered: Lowered, capacity: int, apart: bool = False) -> Assembled:
    """The instructions of a forward pass, for steps of at most `capacity` tokens.

    Buffers that lie `apart` share no places: all that a step computed is there until the next one.
    """
    places, row = _place(lowered, apart)
    assembled = Assembled(Arena(places, row, lowered.logits, capacity))
    for computation in lowered.computations:
        assembled.instructions.append(_instruction(assembled, computation))
        if isinstance(computation, Remembered):
            assembled.written = len(assembled.instructions)
    return assembled


def _instruction(assembled: Assembled, computation: Computation) -> Instruction:
    made = Instruction()
    match computation:
        case Computed(operation, sizes):
            made.kind, made.what = Kind.ROW, operation
            made.sizes[:] = sizes
        case LookedUp(table, width, count):
            assert not isinstance(table, StoredMatrix), "tables are in memory by now"
            made.kind, made.what = Kind.LOOKUP, _number(assembled.tables, table)
            made.sizes[:] = (1, 1, count, width)
        case Multiplied(layer):
            made.kind, made.what = Kind.PRODUCT, layer
        case Remembered(attention):
            made.kind, made.what = Kind.REMEMBER, attention
        case Attended(attention):
            made.kind, made.what = Kind.ATTEND, attention
    if not isinstance(computation, Remembered):
        made.out = _operand(assembled, computation.out)
    for index, one in enumerate(computation.inputs):
        made.inputs[index] = _operand(assembled, one)
    return made


def _operand(assembled: Assembled, placed: Placed) -> Operand:
    made = Operand()
    made.offset = placed.offset
    made.strides[:] = placed.strides
    if isinstance(placed.base, Buffer):
        made.space, made.place = Space.BUFFER, assembled.arena.place(placed.base)
        made.token_stride = assembled.arena.stride(placed.base)
    else:
        made.space, made.place = Space.CONSTANT, placed.base.data_ptr()
        assembled.constants.append(placed.base)
    return made


def _number(tables: list[torch.Tensor | int], wanted: torch.Tensor | int) -> int:
    for number, table in enumerate(tables):
        if table is wanted:
            return number
    tables.append(wanted)
    return len(tables) - 1


def _buffers(placed: Sequence[Placed]) -> Iterator[Buffer]:
    for one in placed:
        if isinstance(one.base, Buffer):
            yield one.base


def _place(lowered: Lowered, apart: bool) -> tuple[dict[Buffer, int], int]:
    """Where each buffer begins in a row, and what a row takes: the first gap, in order of their use.

    What is computed number by number goes where an input lies that nothing later reads, if it lies alike.
    """
    last: dict[Buffer, int] = {}
    for index, computation in enumerate(lowered.computations):
        for buffer in _buffers((*_outs(computation), *computation.inputs)):
            last[buffer] = index
    taken: dict[Buffer, tuple[int, int]] = {}
    places: dict[Buffer, int] = {}
    row = 0

    def take(buffer: Buffer) -> None:
        nonlocal row
        size = -(-buffer.width // LINE) * LINE
        begin = 0
        for first, end in sorted(taken.values()):
            if first - begin >= size:
                break
            begin = max(begin, end)
        places[buffer] = begin
        taken[buffer] = (begin, begin + size)
        row = max(row, begin + size)

    for given in (lowered.ids, lowered.positions, lowered.lengths):
        take(given)
    for index, computation in enumerate(lowered.computations):
        if not apart:
            for buffer in [buffer for buffer in taken if last.get(buffer, -1) < index]:
                del taken[buffer]
        for buffer in _buffers(_outs(computation)):
            if buffer in places or buffer is lowered.logits:
                continue
            for spent in () if apart else _spent(computation, last, index):
                places[buffer], taken[buffer] = places[spent], taken.pop(spent)
                break
            else:
                take(buffer)
    return places, row + LINE if row % PAGE == 0 else row


def _outs(computation: Computation) -> tuple[Placed, ...]:
    return () if isinstance(computation, Remembered) else (computation.out,)


def _spent(computation: Computation, last: dict[Buffer, int], index: int) -> list[Buffer]:
    """Buffers that are read for the last time, number by number just where the outcome's are written.

    One that is read elsewhere, too, would be written over before that.
    """
    if not isinstance(computation, Computed) or computation.operation >= Operation.SUM:
        return []
    out = computation.out
    elsewhere = {
        one.base
        for one in computation.inputs
        if isinstance(one.base, Buffer) and (one.offset, one.strides) != (out.offset, out.strides)
    }
    return [
        buffer
        for buffer in _buffers(computation.inputs)
        if buffer not in elsewhere
        and isinstance(out.base, Buffer)
        and buffer.width == out.base.width
        and last[buffer] == index
    ]
