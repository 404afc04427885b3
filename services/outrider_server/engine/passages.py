"""Texts that the shape audit reads, and the ways in which it reads them: at which row, beside what, in which
chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, repeat

import torch

from .layout import Row
from .packed_cache import CHUNK
from .step import StepRunner

AUDIT_TOKENS = 40
AUDIT_STEPS = 8
"""The text has no more than so many full rows: where rows are narrow it is shorter."""
LONE_TOKENS = 4
"""So many steps of one token are audited, before longer ones."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that is read in several ways: tokens from a position on."""

    tokens: tuple[int, ...]
    start: int = 0
    slot: int | None = None
    """Where it is read; None follows the row."""
    name: str = ""
    all_layers: bool = True
    """Whether a recorded model reads it by all its layers too."""

    def first(self, count: int) -> Passage:
        """Its first tokens."""
        return replace(self, tokens=self.tokens[:count])

    def after(self, count: int) -> Passage:
        """Without its first tokens."""
        return replace(self, tokens=self.tokens[count:], start=self.start + count)


def passages_of(runner: StepRunner) -> list[Passage]:
    """A text from the first position on, and before it those across borders: of the model's rule of lengths,
    and of what the engine's own attention sums by itself.

    These have a slot that nothing but them was read into yet, so that the same stands before them every time.
    """
    limits, border = runner.limits, runner.length_rule.border
    most = limits.max_context_tokens
    length = min(AUDIT_TOKENS, AUDIT_STEPS * limits.width, most)
    tokens = tuple(runner.known_token(7919 * (index + 1)) for index in range(length))
    text = Passage(tokens, slot=limits.slots - 1)

    def across(border: int, before: int, name: str) -> Passage:
        start = max(0, min(border - before, most - length))
        return replace(text, start=start, name=f", across {border} {name}")

    passages = [Passage(tokens)]
    if border < most:
        passages.insert(0, across(border, length // 2, "tokens"))
    if runner.layout.packed and most > CHUNK:
        # where full rows lie across the border, and steps of one token do not
        of_chunk = across(CHUNK, LONE_TOKENS - 1, "positions")
        passages.insert(0, replace(of_chunk, all_layers=False))
    return passages


Neighbour = Callable[[StepRunner, int, int], Row]
"""Makes the row of a slot beside one that reads at a position."""


def _idle(runner: StepRunner, slot: int, position: int) -> Row:
    """A neighbour that reads a single token."""
    del runner, position
    return Row(slot, 0, (0,))


def _busy(runner: StepRunner, slot: int, position: int) -> Row:
    """Another text at another position."""
    return Row(slot, max(0, position - 5 * slot), _other_text(runner, slot))


def _longest(runner: StepRunner, slot: int, position: int) -> Row:
    """The end of a session that fills its context, and was read at that length."""
    del position
    longest, tokens = runner.limits.max_context_tokens, _other_text(runner, slot)
    return Row(slot, max(0, longest - len(tokens)), tokens, reading=longest)


def _other_text(runner: StepRunner, slot: int) -> tuple[int, ...]:
    width = runner.limits.width
    return tuple(runner.known_token(31 * slot + 17 * k) for k in range(width))


@dataclass(frozen=True, slots=True)
class Way:
    """A way to read a passage: by the row of this index, after others."""

    name: str
    row: int = 0
    neighbour: Neighbour = _idle
    chunked: bool = False
    """Whether shorter rows, of every length, go before full ones."""


FULL_ROWS = Way("full rows")
EVERY_LENGTH = Way("steps of every length", chunked=True)


def among_neighbours(bucket: int) -> Way:
    """The last row of a bucket whose others read other texts."""
    return Way(f"row {bucket - 1} among neighbours", bucket - 1, _busy)


def ways_of(bucket: int) -> list[Way]:
    """All ways to read a passage through a bucket."""
    last = bucket - 1
    among = [
        Way(f"row {last} after short rows", last),
        among_neighbours(bucket),
        Way(f"row {last} beside the longest", last, _longest),
    ]
    return [FULL_ROWS, *(among if bucket > 1 else ()), EVERY_LENGTH]


Step = Callable[[Sequence[Row], int], list[torch.Tensor]]
"""Reads rows in a bucket; returns what is compared of each row's tokens, [T, ...]."""


def read(
    runner: StepRunner, step: Step, passage: Passage, bucket: int, way: Way = FULL_ROWS
) -> torch.Tensor:
    """Reads a passage by steps of a runner; returns what is compared of its tokens, [T, ...]."""
    slot = way.row if passage.slot is None else passage.slot
    sizes = _sizes(runner.limits.width, way)
    pieces, begin = [], 0
    while begin < len(passage.tokens):
        position, size = passage.start + begin, next(sizes)
        rows = [way.neighbour(runner, index, position) for index in range(way.row)]
        rows.append(Row(slot, position, passage.tokens[begin : begin + size]))
        pieces.append(step(rows, bucket)[way.row].clone())
        begin += size
    return torch.cat(pieces)


def _sizes(width: int, way: Way) -> Iterator[int]:
    """Of the rows: where chunked one token a few times, then one more each time up to the width."""
    short = chain(repeat(1, LONE_TOKENS), range(2, width)) if way.chunked else ()
    return chain(short, repeat(width))
