"""How a tensor of a recording lies in the rows of a buffer: its sizes and strides, without the tokens.

Every tensor that a step computes has one dimension for its tokens. In memory a token's numbers follow each
other, a row for each token; so any slicing, transposing or reshaping of a tensor is other strides within a
row, as long as the dimension of tokens stays whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

TOKENS = 1_000_003
"""Stands for the number of tokens in a recording: a prime, which no other dimension has as a factor."""


class NotRecorded(Exception):
    """A model does something that a recording cannot hold. The message says what, as a sentence's end."""


@dataclass(frozen=True, slots=True)
class View:
    """Sizes with TOKENS among them, once; strides and the offset count numbers within a row."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @property
    def token_dim(self) -> int:
        """Which dimension is that of the tokens."""
        return token_dim(self.sizes)

    @property
    def numbers(self) -> int:
        """How many of them a token has."""
        return prod(self.sizes) // TOKENS

    @property
    def dense(self) -> bool:
        """True where a row holds the numbers in order, without gaps or repetitions."""
        wanted = dense_strides(self.sizes)
        return all(
            size == 1 or size == TOKENS or stride == want
            for size, stride, want in zip(self.sizes, self.strides, wanted, strict=True)
        )

    def moved(self, order: Sequence[int]) -> View:
        """With its dimensions in another order."""
        return replace(
            self,
            sizes=tuple(self.sizes[dim] for dim in order),
            strides=tuple(self.strides[dim] for dim in order),
        )

    def narrowed(self, dim: int, start: int, size: int, step: int = 1) -> View:
        """Every `step`-th index of a dimension, from `start` on."""
        if dim == self.token_dim:
            if (start, size, step) == (0, TOKENS, 1):
                return self
            raise NotRecorded("it takes some of a step's tokens apart from the others")
        stride = self.strides[dim]
        return View(
            (*self.sizes[:dim], size, *self.sizes[dim + 1 :]),
            (*self.strides[:dim], stride * step, *self.strides[dim + 1 :]),
            self.offset + start * stride,
        )

    def without(self, dim: int) -> View:
        """Without a dimension of size 1."""
        return replace(
            self,
            sizes=self.sizes[:dim] + self.sizes[dim + 1 :],
            strides=self.strides[:dim] + self.strides[dim + 1 :],
        )

    def expanded(self, sizes: Sequence[int]) -> View:
        """Repeated along dimensions of size 1, and along new ones in front."""
        missing = len(sizes) - len(self.sizes)
        old = (1,) * missing + self.sizes
        strides = (0,) * missing + self.strides
        repeated = tuple(
            0 if have == 1 and want != 1 else stride
            for have, want, stride in zip(old, sizes, strides, strict=True)
        )
        return View(tuple(sizes), repeated, self.offset)

    def reshaped(self, sizes: Sequence[int]) -> View | None:
        """Of other sizes in the same order; None where that takes a copy."""
        where, there = self.token_dim, token_dim(sizes)
        if prod(self.sizes[:where]) != prod(sizes[:there]):
            raise NotRecorded("it mixes the order of tokens with that of their numbers")
        before = _restrided(self.sizes[:where], self.strides[:where], sizes[:there])
        behind = _restrided(self.sizes[where + 1 :], self.strides[where + 1 :], sizes[there + 1 :])
        if before is None or behind is None:
            return None
        return View(tuple(sizes), (*before, 0, *behind), self.offset)


def token_dim(sizes: Sequence[int]) -> int:
    """Which dimension is that of the tokens."""
    if list(sizes).count(TOKENS) != 1:
        raise NotRecorded("it mixes a step's tokens with other dimensions")
    return list(sizes).index(TOKENS)


def dense_strides(sizes: Sequence[int]) -> tuple[int, ...]:
    """Those of a tensor whose rows hold its numbers in order, without gaps."""
    strides, stride = [], 1
    for size in reversed(sizes):
        if size == TOKENS:
            strides.append(0)
        else:
            strides.append(stride)
            stride *= size
    return tuple(reversed(strides))


def dense_view(sizes: Sequence[int]) -> View:
    """Of a buffer of its own."""
    token_dim(sizes)
    return View(tuple(sizes), dense_strides(sizes))


def _restrided(
    sizes: Sequence[int], strides: Sequence[int], wanted: Sequence[int]
) -> tuple[int, ...] | None:
    """Strides of the same numbers in the same order with other sizes; None where there are none."""
    runs = merged(list(zip(sizes, [(stride,) for stride in strides], strict=True)))
    found: list[int] = []
    left = list(reversed(wanted))
    for size, (stride,) in reversed(runs):
        taken = 1
        while left and (taken < size or left[0] == 1):
            dim = left.pop(0)
            found.append(stride * taken)
            taken *= dim
        if taken != size:
            return None
    found += [0] * len(left)  # all of size 1
    return tuple(reversed(found))


def merged(
    loops: Sequence[tuple[int, tuple[int, ...]]],
) -> list[tuple[int, tuple[int, ...]]]:
    """Nested loops (size, strides of some operands), with those made one that run on in all operands."""
    runs: list[tuple[int, tuple[int, ...]]] = []
    for size, strides in loops:
        if size == 1:
            continue
        if runs and all(
            outer == inner * size for outer, inner in zip(runs[-1][1], strides, strict=True)
        ):
            runs[-1] = (runs[-1][0] * size, strides)
        else:
            runs.append((size, strides))
    return runs
