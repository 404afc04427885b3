"""The kernels' plain C functions, called by ctypes: what packs weights and runs programs."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch


class KernelLibrary:
    """The functions of one loaded library. What they are given is contiguous and on the CPU."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        self._pack = library.outrider_pack
        integer, pointer = ctypes.c_int64, ctypes.c_void_p
        self._pack.argtypes = (integer, pointer, integer, integer, pointer)
        self._make = library.outrider_program_make
        self._make.argtypes = (ctypes.c_void_p,)
        self._make.restype = ctypes.c_void_p
        self._run = library.outrider_program_run
        self._run.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
        self._free = library.outrider_program_free
        self._free.argtypes = (ctypes.c_void_p,)

    def pack(self, element: int, weight: torch.Tensor, packed: torch.Tensor) -> None:
        """weight [N, K] -> packed [ceil(N / 32), 16 ceil(K / 32), 64], which holds zeros."""
        outputs, inputs = weight.shape
        whole = weight.contiguous()
        self._pack(element, whole.data_ptr(), outputs, inputs, packed.data_ptr())

    def make(self, code: ctypes.Structure) -> int:
        """A program; what the code points to must outlive it."""
        made: int = self._make(ctypes.byref(code))
        return made

    def run(self, program: int, step: ctypes.Structure, end: int) -> None:
        """Runs a program's instructions before `end`."""
        self._run(program, ctypes.byref(step), end)

    def free(self, program: int) -> None:
        """Frees what `make` gave."""
        self._free(program)


_loaded: list[KernelLibrary] = []


def load_kernel_library(path: Path) -> None:
    """Makes the functions of this library the process's."""
    _loaded[:] = [KernelLibrary(path)]


def kernel_library() -> KernelLibrary:
    """Of this process, which has loaded it: `kernels_missing`."""
    return _loaded[0]
