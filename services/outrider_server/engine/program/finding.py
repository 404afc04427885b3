"""Finds where a model's matrices stand in its checkpoint.

The library renames, turns, stacks and joins a checkpoint's tensors on their way into a model. What it did is
not asked for: a matrix is found by its first row, and believed when all its bits are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch

from ..model.weight_files import Weights
from .computations import StoredMatrix, StoredPart
from .stored import read_first_row, read_part

COMPARED = 256
"""Numbers of a row by which it is looked for."""
BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Key = tuple[int, bytes]
"""The length of a row, and a digest of how it begins."""


class NotStored(Exception):
    """A checkpoint does not hold what a model computes with."""


class Finder:
    """The matrices of a checkpoint, by their first rows."""

    def __init__(self, files: Weights) -> None:
        self._files = files
        self._known: dict[tuple[torch.dtype, bool], dict[Key, list[StoredPart]]] = {}

    def find(self, matrix: torch.Tensor) -> StoredMatrix:
        """Where a matrix [N, K] stands, whole or in parts below each other. Raises NotStored."""
        parts: list[StoredPart] = []
        begin, (rows, columns) = 0, matrix.shape
        while begin < rows:
            part = self._part(matrix[begin:])
            if part is None:
                raise NotStored
            parts.append(part)
            begin += len(read_part(self._files, part))
        return StoredMatrix(tuple(parts), rows, columns, matrix.dtype)

    def _part(self, matrix: torch.Tensor) -> StoredPart | None:
        """The part that a matrix begins with."""
        key = _key(matrix[0])
        for turned in (False, True):
            for part in self._heads(matrix.dtype, turned).get(key, ()):
                stored = read_part(self._files, part)
                same = len(stored) <= len(matrix) and _same(
                    stored.to(matrix.dtype), matrix[: len(stored)]
                )
                self._files.let_go(part.name)
                if same:
                    return part
        return None

    def _heads(self, dtype: torch.dtype, turned: bool) -> dict[Key, list[StoredPart]]:
        """All matrices by their first rows, in a dtype."""
        found = self._known.get((dtype, turned))
        if found is None:
            found = self._known[dtype, turned] = {}
            for part in self._parts(turned):
                key = _key(read_first_row(self._files, part).to(dtype))
                found.setdefault(key, []).append(part)
        return found

    def _parts(self, turned: bool) -> Iterator[StoredPart]:
        for name in self._files.names:
            shape = self._files.shape(name)
            if 0 in shape or len(shape) not in (2, 3):
                continue
            if len(shape) == 2:
                yield StoredPart(name, None, turned)
            else:
                yield from (StoredPart(name, index, turned) for index in range(shape[0]))
            self._files.let_go(name)


def _key(row: torch.Tensor) -> Key:
    return len(row), hashlib.blake2b(_bits(row[:COMPARED]).numpy().tobytes()).digest()


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(_bits(one), _bits(other))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as whole numbers, of which none differs from itself and zero has no sign."""
    return tensor.detach().view(BITS[tensor.dtype.itemsize])
