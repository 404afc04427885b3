"""The packed slot cache: keys and values of many sessions, as the engine's attention kernel multiplies them.

Owns the memory and its layout, which is that of `kernels/slot_cache.h`, and nothing else. A session's KV is a
slot and a length, as in `cache.py`; what stands behind that length reaches nothing.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

import torch

GROUP = 16
"""Positions whose keys lie together."""
BLOCK = 64
"""A slot has a multiple of so many positions: the kernel reads them at once."""
CHUNK = 512
"""Positions that attention sums by themselves, before it adds them up."""
LARGEST_HEAD = 256
DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True, slots=True)
class PackedShape:
    """Of every layer: `slots` sessions of `length` positions each, a multiple of `BLOCK`."""

    slots: int
    key_heads: int
    length: int
    head_dim: int

    def __post_init__(self) -> None:
        assert 0 < self.head_dim <= LARGEST_HEAD
        assert self.length % BLOCK == 0

    @property
    def key_sizes(self) -> tuple[int, int, int, int]:
        """[S, K, L / 16, 16 * D], D padded to an even number: each group's dimensions, two by two."""
        return self._sizes(-(-self.head_dim // 2) * 2)

    @property
    def value_sizes(self) -> tuple[int, int, int, int]:
        """[S, K, L / 16, 16 * D], D padded to a multiple of 16: each group's positions, two by two."""
        return self._sizes(-(-self.head_dim // 16) * 16)

    def _sizes(self, padded: int) -> tuple[int, int, int, int]:
        return self.slots, self.key_heads, self.length // GROUP, GROUP * padded


class Pages:
    """Zeros that take memory only once they are written to, by pages: a tensor over a mapping of its own."""

    def __init__(self, sizes: tuple[int, ...], dtype: torch.dtype) -> None:
        """Raises OSError where the machine has no such memory."""
        byte_count = torch.Size(sizes).numel() * dtype.itemsize
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._mapping = mmap.mmap(-1, byte_count, flags=flags)
        self.tensor = torch.frombuffer(self._mapping, dtype=dtype).view(sizes)

    def clear(self, row: int) -> None:
        """Zeroes a row of the first dimension, and gives its pages back."""
        held = self.tensor[row].flatten()
        begin, size = row * held.nbytes, mmap.PAGESIZE
        first, last = -(-begin // size) * size, (begin + held.nbytes) // size * size
        if last <= first:
            held.zero_()
            return
        self._mapping.madvise(mmap.MADV_DONTNEED, first, last - first)
        held[: (first - begin) // held.itemsize].zero_()
        held[(last - begin) // held.itemsize :].zero_()


class PackedCache:
    """The packed slot cache of a model, or a rank's share of it, on the CPU."""

    group_size = GROUP

    def __init__(self, layers: int, shape: PackedShape, dtype: torch.dtype) -> None:
        """Raises OSError where the machine has no such memory."""
        assert dtype in DTYPES
        self.shape = shape
        self.dtype = dtype
        self._keys = [Pages(shape.key_sizes, dtype) for _ in range(layers)]
        self._values = [Pages(shape.value_sizes, dtype) for _ in range(layers)]

    def addresses(self, layer: int) -> tuple[int, int]:
        """Where a layer's keys and values begin: what `slots::Cache` points to."""
        return self._keys[layer].tensor.data_ptr(), self._values[layer].tensor.data_ptr()

    def slot_layers(self, slot: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer, [K, L / 16, ...] as they lie there, uncopied."""
        pairs = zip(self._keys, self._values, strict=True)
        return [(keys.tensor[slot], values.tensor[slot]) for keys, values in pairs]

    def wipe(self, slot: int) -> None:
        """Zeroes a slot, which then takes next to no memory."""
        for pages in (*self._keys, *self._values):
            pages.clear(slot)

    @property
    def byte_count(self) -> int:
        """Size of all keys and values in bytes, written or not."""
        return sum(pages.tensor.nbytes for pages in (*self._keys, *self._values))
