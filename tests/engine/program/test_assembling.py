"""Where buffers lie, checked by an interpreter of its own: it runs instructions number by number."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outrider_server.engine.program.assembling import LINE, PAGE, Assembled, assemble
from outrider_server.engine.program.computations import (
    Operation,
    Rows,
)
from outrider_server.engine.program.lowering import Lowering
from outrider_server.engine.program.tables import Instruction, Kind, Operand, Space
from outrider_server.engine.program.views import TOKENS, dense_view

SIDE = 3
SIZES = (1, TOKENS, SIDE, SIDE)
CAPACITY, TOKEN = 2, 1
FUNCTIONS: dict[Operation, Callable[..., float]] = {
    Operation.COPY: lambda x: x,
    Operation.NEGATE: lambda x: -x,
    Operation.ADD: lambda x, y: x + y,
    Operation.SUBTRACT: lambda x, y: x - y,
    Operation.LARGER: max,
}


class Program:
    """Computations over tensors [3, 3] of a token that hypothesis has drawn, and what each comes to."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.lowering = Lowering()
        self.table = torch.arange(2.0 * SIDE * SIDE).view(2, -1)
        ids = Rows(self.lowering.lowered.ids, dense_view((1, TOKENS)))
        looked_up = self.lowering.look_up(self.table, ids, SIZES)
        self.pairs = [(looked_up, self.table[TOKEN].view(SIDE, SIDE))]
        for _ in range(draw(st.integers(1, 8))):
            self.pairs.append(
                draw(st.sampled_from([self.computed, self.joined, self.summed]))(draw)
            )
        rows, self.wanted = self.pairs[-1]
        self.lowering.lowered.logits = self.lowering.dense(rows).buffer

    def one(self, draw: st.DrawFn) -> tuple[Rows, torch.Tensor]:
        """An earlier outcome, maybe a late one: itself, turned, or one of its numbers for many."""
        index = draw(st.integers(max(0, len(self.pairs) - 3), len(self.pairs) - 1))
        rows, tensor = self.pairs[index]
        if draw(st.booleans()):
            return rows, tensor
        if draw(st.booleans()):
            return Rows(rows.buffer, rows.view.moved((0, 1, 3, 2))), tensor.T
        dim, at = draw(st.integers(0, 1)), draw(st.integers(0, SIDE - 1))
        narrow = rows.view.narrowed(2 + dim, at, 1).expanded(SIZES)
        return Rows(rows.buffer, narrow), tensor.narrow(dim, at, 1).expand(SIDE, SIDE)

    def computed(self, draw: st.DrawFn) -> tuple[Rows, torch.Tensor]:
        operation = draw(st.sampled_from(sorted(FUNCTIONS)))
        inputs = [self.one(draw) for _ in range(1 if operation < Operation.ADD else 2)]
        made = self.lowering.compute(operation, SIZES, *(rows for rows, _ in inputs))
        numbers = zip(*(tensor.flatten().tolist() for _, tensor in inputs), strict=True)
        values = [FUNCTIONS[operation](*each) for each in numbers]
        return made, torch.tensor(values).view(SIDE, SIDE)

    def joined(self, draw: st.DrawFn) -> tuple[Rows, torch.Tensor]:
        """The first line of one and the others of another."""
        parts = [self.one(draw) for _ in range(2)]
        made = self.lowering.new(SIZES)
        for (rows, _), begin, size in zip(parts, (0, 1), (1, SIDE - 1), strict=True):
            part = Rows(made.buffer, made.view.narrowed(2, begin, size))
            value = Rows(rows.buffer, rows.view.narrowed(2, begin, size))
            self.lowering.compute(Operation.COPY, part.sizes, value, out=part)
        return made, torch.cat((parts[0][1][:1], parts[1][1][1:]))

    def summed(self, draw: st.DrawFn) -> tuple[Rows, torch.Tensor]:
        rows, tensor = self.one(draw)
        made = self.lowering.reduce(Operation.SUM, rows, [3], True, 1.0)
        return (
            Rows(made.buffer, made.view.expanded(SIZES)),
            tensor.sum(1, keepdim=True).expand(SIDE, SIDE),
        )


programs = st.composite(lambda draw: Program(draw))()


class Arena:
    """Runs instructions for one token, each number by number in the order that is given."""

    def __init__(self, assembled: Assembled, program: Program, backwards: bool) -> None:
        self.assembled, self.program, self.backwards = assembled, program, backwards
        self.numbers = [float("nan")] * assembled.arena.numbers
        self.numbers[assembled.arena.place(program.lowering.lowered.ids) + self.row] = TOKEN
        for instruction in assembled.instructions:
            self.run(instruction)

    @property
    def row(self) -> int:
        return self.assembled.arena.row * TOKEN

    def at(self, operand: Operand, place: tuple[int, ...]) -> int:
        begin = operand.place + operand.token_stride * TOKEN + operand.offset
        return begin + sum(i * s for i, s in zip(place, operand.strides, strict=True))

    def read(self, operand: Operand, place: tuple[int, ...]) -> float:
        if operand.space == Space.CONSTANT:
            return 1.0
        return self.numbers[self.at(operand, place)]

    def places(self, sizes: Iterable[int]) -> list[tuple[int, ...]]:
        found = list(itertools.product(*map(range, sizes)))
        return found[::-1] if self.backwards else found

    def run(self, made: Instruction) -> None:
        if made.kind == Kind.LOOKUP:
            table = self.assembled.tables[made.what]
            row = table[int(self.read(made.inputs[0], (0, 0, 0, 0)))].tolist()
            for index, value in enumerate(row):
                self.numbers[self.at(made.out, (0, 0, 0, index))] = value
        elif made.what == Operation.SUM:
            for place in self.places((*made.sizes[:3], 1)):
                total = sum(
                    self.read(made.inputs[0], (*place[:3], index)) for index in range(made.sizes[3])
                )
                self.numbers[self.at(made.out, place)] = total
        else:
            count = 1 if made.what < Operation.ADD else 2
            for place in self.places(made.sizes):
                values = [self.read(made.inputs[index], place) for index in range(count)]
                self.numbers[self.at(made.out, place)] = FUNCTIONS[Operation(made.what)](*values)

    @property
    def logits(self) -> torch.Tensor:
        arena = self.assembled.arena
        begin = arena.place(arena.logits) + arena.stride(arena.logits) * TOKEN
        return torch.tensor(self.numbers[begin : begin + arena.logits.width])


@settings(max_examples=300)
@given(program=programs, backwards=st.booleans())
def test_no_number_is_written_over_while_it_is_needed(program: Program, backwards: bool) -> None:
    assembled = assemble(program.lowering.lowered, CAPACITY)
    got = Arena(assembled, program, backwards).logits
    assert torch.equal(got, program.wanted.flatten()[: len(got)])


@settings(max_examples=50)
@given(program=programs)
def test_buffers_begin_with_lines_and_lie_within_a_row(program: Program) -> None:
    arena = assemble(program.lowering.lowered, CAPACITY).arena
    for buffer, place in arena.places.items():
        assert place % LINE == 0
        assert place + buffer.width <= arena.row
    assert arena.row % LINE == 0
    assert arena.row % PAGE


def begun(width: int) -> tuple[Lowering, Rows]:
    """Rows that are looked up by the ids."""
    lowering = Lowering()
    ids = Rows(lowering.lowered.ids, dense_view((1, TOKENS)))
    return lowering, lowering.look_up(torch.zeros(2, width), ids, (1, TOKENS, width))


def test_an_outcome_takes_the_place_of_what_nothing_reads_later() -> None:
    """A chain takes a row of one buffer beside the ids."""
    lowering, rows = begun(40)
    for _ in range(5):
        rows = lowering.compute(Operation.NEGATE, rows.sizes, rows)
    lowering.lowered.logits = rows.buffer
    arena = assemble(lowering.lowered, CAPACITY).arena
    assert arena.row == LINE + 48


def test_an_input_that_is_read_elsewhere_too_keeps_its_place() -> None:
    """x - x[0], in an arena: x[0] is read again for every number."""
    lowering, rows = begun(40)
    first = Rows(rows.buffer, rows.view.narrowed(2, 0, 1))
    less = lowering.compute(Operation.SUBTRACT, rows.sizes, rows, first)
    lowering.lowered.logits = lowering.compute(Operation.NEGATE, rows.sizes, less).buffer
    places = assemble(lowering.lowered, CAPACITY).arena.places
    assert places[less.buffer] != places[rows.buffer]


@pytest.mark.parametrize("capacity", [1, 7])
def test_logits_lie_behind_all_rows_without_gaps(capacity: int) -> None:
    lowering, rows = begun(5)
    lowering.lowered.logits = lowering.compute(Operation.NEGATE, rows.sizes, rows).buffer
    assembled = assemble(lowering.lowered, capacity)
    out = assembled.instructions[-1].out
    assert out.place == assembled.arena.row * capacity
    assert out.token_stride == 5
    assert assembled.arena.numbers == assembled.arena.row * capacity + 5 * capacity


def test_rows_do_not_begin_alike_within_pages() -> None:
    lowering, rows = begun(PAGE - LINE)
    lowering.lowered.logits = lowering.compute(Operation.NEGATE, rows.sizes, rows).buffer
    assert assemble(lowering.lowered, CAPACITY).arena.row == PAGE + LINE
