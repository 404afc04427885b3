"""How the rows of a step lie in its tokens.

A step has room for some number of tokens, a *bucket*. Where the engine runs on its own kernels rows are
packed: they follow each other without gaps, and nothing else is in the step. Elsewhere they are aligned: each
row fills `width` tokens and padding fills the bucket, so that torch's kernels see one shape. Padding lives in
a scratch slot, where nothing attends to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..core.types import TokenLogprobs

NOT_FINITE = -1
"""Stands for a decided token where the logits were no numbers."""
INPUT_KINDS = 4
"""What a step is told of each of its tokens: id, slot, position, and the length that it is read at."""


@dataclass(frozen=True, slots=True)
class Row:
    """Tokens to read at `start_position` of a slot, each at a length of at least `reading`: `lengths.py`."""

    slot: int
    start_position: int
    tokens: tuple[int, ...]
    reading: int = 0


@dataclass(frozen=True, slots=True)
class RowResult:
    """What was decided after each token of a row; `NOT_FINITE` where the model gave no number."""

    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] = ()


def packed_buckets(most_rows: int) -> tuple[int, ...]:
    """Buckets for packed rows, ascending: powers of two, what lies half-way between them, and the most."""
    sizes, size = {most_rows}, 1
    while size < most_rows:
        sizes |= {size, size * 3 // 2}
        size *= 2
    return tuple(sorted(size for size in sizes if size <= most_rows))


@dataclass(frozen=True, slots=True)
class Layout:
    """`width` is the most tokens a row."""

    width: int
    packed: bool
    scratch_slot: int

    def tokens(self, lengths: Sequence[int]) -> int:
        """How many tokens of a step the rows of these lengths take."""
        return sum(lengths) if self.packed else len(lengths) * self.width

    def rows_that_fit(self, lengths: Sequence[int], tokens: int) -> int:
        """How many of the rows of these lengths fit, in order, into a step of this many tokens."""
        taken = 0
        for count, length in enumerate(lengths):
            taken += length if self.packed else self.width
            if taken > tokens:
                return count
        return len(lengths)

    def begins(self, rows: Sequence[Row]) -> list[int]:
        """Index of each row's first token in the step."""
        if not self.packed:
            return [index * self.width for index in range(len(rows))]
        begins, total = [], 0
        for row in rows:
            begins.append(total)
            total += len(row.tokens)
        return begins

    def fill(self, rows: Sequence[Row], tokens: int, row_width: int = 0) -> list[list[int]]:
        """Token ids, slots, positions and lengths: [4, N].

        Aligned rows fill `row_width` or `width` each, and N is `tokens`; packed ones are as many as they are.
        """
        row_width = row_width or self.width
        ids: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        lengths: list[int] = []
        for row in rows:
            length = len(row.tokens) if self.packed else row_width
            ids += row.tokens + (0,) * (length - len(row.tokens))
            slots += [row.slot] * length
            places = range(row.start_position, row.start_position + length)
            positions += places
            lengths += [max(row.reading, position + 1) for position in places]
        padding = 0 if self.packed else tokens - len(ids)
        ids += [0] * padding
        slots += [self.scratch_slot] * padding
        positions += [index % row_width for index in range(padding)]
        lengths += [1] * padding
        return [ids, slots, positions, lengths]
