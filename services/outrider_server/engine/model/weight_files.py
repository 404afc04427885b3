"""A checkpoint's weights, mapped into memory: pages are read when a tensor is, and let go behind it."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open


class WeightFiles:
    """The tensors of some safetensors files, by name."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Raises OSError or SafetensorError for a file that is not whole."""
        self._files: dict[str, Any] = {}
        for path in paths:
            file: Any = safe_open(path, framework="pt")
            self._files |= dict.fromkeys(file.keys(), file)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all tensors."""
        return tuple(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's, without reading it."""
        return tuple(self._files[name].get_slice(name).get_shape())

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor over the file's own pages. Raises KeyError."""
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        return tensor

    def let_go(self, name: str) -> None:
        """Gives back the pages that this tensor alone is on. Reading it again reads the file again."""
        tensor = self.tensor(name)
        begin, size = tensor.data_ptr(), mmap.PAGESIZE
        first, last = -(-begin // size) * size, (begin + tensor.nbytes) // size * size
        if last > first:
            _LIBRARY.madvise(first, last - first, mmap.MADV_DONTNEED)


_LIBRARY = ctypes.CDLL(None)
_LIBRARY.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
