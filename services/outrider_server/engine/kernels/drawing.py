"""The kernels that draw tokens, called by ctypes."""

from __future__ import annotations

import ctypes

import torch

from .addresses import address, rows_address


class Draws(ctypes.Structure):
    """The rows of a step and how each slot's tokens are drawn: `Draws` of `drawing.h`, field by field."""

    _fields_ = (
        ("logits", ctypes.c_void_p),
        ("rows", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("best", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("temperatures", ctypes.c_void_p),
        ("top_k", ctypes.c_void_p),
        ("top_p", ctypes.c_void_p),
        ("floors", ctypes.c_void_p),
        ("seeds", ctypes.c_void_p),
    )


class DrawingLibrary:
    """The functions of `drawing.cpp` in a loaded library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        integer, pointer = ctypes.c_int64, ctypes.c_void_p
        self._most_probable = library.outrider_most_probable
        self._most_probable.argtypes = (pointer, integer, integer, integer, ctypes.c_bool, pointer)
        self._most_probable.restype = None
        self._draw = library.outrider_draw
        self._draw.argtypes, self._draw.restype = (pointer, pointer), None

    def most_probable(self, logits: torch.Tensor, hidden: bool) -> torch.Tensor:
        """logits [N, V] float32 -> the first of each row's largest ones [N] int64.

        Negative where they are no numbers: where one is NaN or infinite or, of a row of which some
        are `hidden` by minus infinity, where all are that.
        """
        rows = _in_rows(logits)
        best = torch.empty(len(rows), dtype=torch.int64)
        self._most_probable(*_matrix(rows), hidden, best.data_ptr())
        return best

    def draw_sampled(
        self,
        logits: torch.Tensor,
        best: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        temperatures: torch.Tensor,
        top_k: torch.Tensor,
        top_p: torch.Tensor,
        floors: torch.Tensor,
        seeds: torch.Tensor,
    ) -> torch.Tensor:
        """logits [N, V] float32 -> tokens [N] int64.

        Of each row: its most probable token `best`, negative where there is none, its slot and
        position [N] int64. Of each slot: temperature [S] float64, 0 to 100, top-k [S] int64, top-p
        [S] float64, the least score [S] float64 and the seed [S] int64, the bits of an unsigned one.
        """
        rows = _in_rows(logits)
        whole, real = torch.int64, torch.float64
        draws = Draws(
            *_matrix(rows),
            *(address(column, whole) for column in (best, slots, positions)),
            address(temperatures, real),
            address(top_k, whole),
            address(top_p, real),
            address(floors, real),
            address(seeds, whole),
        )
        drawn = torch.empty(len(rows), dtype=torch.int64)
        self._draw(ctypes.byref(draws), drawn.data_ptr())
        return drawn


def _in_rows(logits: torch.Tensor) -> torch.Tensor:
    """The same [N, V] in whole rows, which may lie apart."""
    return logits if logits.stride(1) == 1 else logits.contiguous()


def _matrix(rows: torch.Tensor) -> tuple[int, int, int, int]:
    """Address, rows, columns, and how far rows lie apart."""
    return rows_address(rows, torch.float32), *rows.shape, rows.stride(0)
