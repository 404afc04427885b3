"""A checkpoint's weights, mapped into memory: pages are read when a tensor is, and let go behind it."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open

from .quantized_weights import QuantizedWeight


class Weights(Protocol):
    """The tensors of some files, by name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's, without reading it."""

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor, over the file's own pages where it can be. Raises KeyError."""

    def first_row(self, name: str, index: int | None) -> torch.Tensor:
        """The first row [C] of a matrix, or of one of a stack. Raises KeyError or IndexError."""

    def quantized(self, name: str) -> QuantizedWeight:
        """A matrix of integers that the kernels take. Raises KeyError for what is none."""

    def let_go(self, name: str) -> None:
        """Gives back the pages that this tensor alone is on. Reading it again reads the file again."""


class WeightFiles:
    """The tensors of some safetensors files; see `Weights`."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Raises OSError or SafetensorError for a file that is not whole."""
        self._files: dict[str, Any] = {}
        for path in paths:
            file: Any = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)

    @property
    def names(self) -> tuple[str, ...]:
        """See `Weights`."""
        return tuple(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Weights`."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def tensor(self, name: str) -> torch.Tensor:
        """See `Weights`."""
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        return tensor

    def first_row(self, name: str, index: int | None) -> torch.Tensor:
        """See `Weights`."""
        tensor = self.tensor(name)
        return (tensor if index is None else tensor[index])[0]

    def quantized(self, name: str) -> QuantizedWeight:
        """See `Weights`: these files have none that is kept for later starts."""
        raise KeyError(name)

    def let_go(self, name: str) -> None:
        """See `Weights`."""
        let_go_pages(self.tensor(name))


def let_go_pages(mapped: torch.Tensor) -> None:
    """Gives back the pages that only this tensor over a file's pages is on."""
    begin, size = mapped.data_ptr(), mmap.PAGESIZE
    first, last = -(-begin // size) * size, (begin + mapped.nbytes) // size * size
    if last > first:
        _LIBRARY.madvise(first, last - first, mmap.MADV_DONTNEED)


_LIBRARY = ctypes.CDLL(None)
_LIBRARY.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
