"""The kernels' plain C functions, called by ctypes: what packs weights, runs programs and draws tokens."""

from __future__ import annotations

import ctypes
from pathlib import Path

import torch

from .addresses import address
from .drawing import DrawingLibrary

_PACKED = (
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
    (torch.float32, torch.float32),
    (torch.int8, torch.uint8),
    (torch.uint8, torch.uint8),
)
"""What weights are of and what they are packed into, as `elements.h` numbers them."""


class KernelLibrary(DrawingLibrary):
    """All functions of one loaded library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        super().__init__(library)
        integer, pointer, boolean = ctypes.c_int64, ctypes.c_void_p, ctypes.c_bool
        self._level = library.outrider_level
        self._level.argtypes, self._level.restype = (), ctypes.c_char_p
        self._set_threads = library.outrider_set_threads
        self._set_threads.argtypes, self._set_threads.restype = (integer,), None
        self._use_tile_unit = library.outrider_use_tile_unit
        self._use_tile_unit.argtypes, self._use_tile_unit.restype = (boolean,), boolean
        self._pack = library.outrider_pack
        self._pack.argtypes = (integer, pointer, integer, integer, pointer)
        self._pack.restype = None
        self._make = library.outrider_program_make
        self._make.argtypes, self._make.restype = (pointer,), pointer
        self._run = library.outrider_program_run
        self._run.argtypes, self._run.restype = (pointer, pointer, integer), None
        self._free = library.outrider_program_free
        self._free.argtypes, self._free.restype = (pointer,), None

    def level_name(self) -> str:
        """The name of the level that the library was compiled for; empty where it is none."""
        name: bytes = self._level()
        return name.decode()

    def set_threads(self, threads: int) -> None:
        """How many threads the kernels have from now on, the caller's included."""
        self._set_threads(threads)

    def use_tile_unit(self, wanted: bool) -> bool:
        """Switches the CPU's tile unit on or off for this process; returns whether it is used."""
        used: bool = self._use_tile_unit(wanted)
        return used

    def pack(self, element: int, weight: torch.Tensor, packed: torch.Tensor) -> None:
        """weight [N, K] of an `Element` -> packed, which holds zeros.

        Of 16 and 32 bits that is [ceil(N / 32), 16 ceil(K / 32), 64] of the weight's dtype. Of 8 bits
        (int8) it is [ceil(N / 32), 16 ceil(K / 64), 128] uint8, of 4 bits (uint8, numbers below 16)
        half of that.
        """
        of_weight, of_packed = _PACKED[element]
        outputs, inputs = weight.shape
        whole = weight.contiguous()
        place = address(whole, of_weight)
        self._pack(element, place, outputs, inputs, address(packed, of_packed))

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


def load_kernel_library(path: Path) -> KernelLibrary:
    """Makes the functions of this library the process's."""
    _loaded[:] = [KernelLibrary(ctypes.CDLL(str(path)))]
    return _loaded[0]


def kernel_library() -> KernelLibrary:
    """Of this process, which has loaded it: `kernels_missing`."""
    return _loaded[0]
