"""A program as the kernels take it: the structures of `program.h`, field by field."""

from __future__ import annotations

import ctypes
import enum

import torch

from .computations import LOOPS

INPUTS = 3


class Kind(enum.IntEnum):
    """Of an instruction."""

    ROW = 0
    LOOKUP = 1
    PRODUCT = 2
    REMEMBER = 3
    ATTEND = 4


class Space(enum.IntEnum):
    """Where an operand lies."""

    NONE = 0
    BUFFER = 1
    CONSTANT = 2


class Element(enum.IntEnum):
    """What weights, tables and caches hold."""

    BFLOAT16 = 0
    FLOAT16 = 1
    FLOAT32 = 2
    EIGHT_BITS = 3
    FOUR_BITS = 4


ELEMENTS = {
    torch.bfloat16: Element.BFLOAT16,
    torch.float16: Element.FLOAT16,
    torch.float32: Element.FLOAT32,
}


class Operand(ctypes.Structure):
    """`place` is where the first token's buffer begins in the arena, in numbers, or a constant's address."""

    _fields_ = (
        ("space", ctypes.c_int64),
        ("place", ctypes.c_int64),
        ("token_stride", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("strides", ctypes.c_int64 * LOOPS),
    )


class Instruction(ctypes.Structure):
    """`what` is an operation, or the number of a table, layer or attention."""

    _fields_ = (
        ("kind", ctypes.c_int64),
        ("what", ctypes.c_int64),
        ("sizes", ctypes.c_int64 * LOOPS),
        ("out", Operand),
        ("inputs", Operand * INPUTS),
    )


class Table(ctypes.Structure):
    """A matrix whose rows are looked up."""

    _fields_ = (
        ("values", ctypes.c_void_p),
        ("element", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("packed", ctypes.c_int64),
    )


class Layer(ctypes.Structure):
    """A linear layer's packed weights."""

    _fields_ = (
        ("packed", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("codes", ctypes.c_void_p),
        ("element", ctypes.c_int64),
        ("outputs", ctypes.c_int64),
        ("inputs", ctypes.c_int64),
        ("group", ctypes.c_int64),
    )


class Attention(ctypes.Structure):
    """A layer of the slot cache, and how it is attended to."""

    _fields_ = (
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("slopes", ctypes.c_void_p),
        ("element", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("key_heads", ctypes.c_int64),
        ("head_dim", ctypes.c_int64),
        ("length", ctypes.c_int64),
        ("window", ctypes.c_int64),
        ("scaling", ctypes.c_double),
        ("softcap", ctypes.c_double),
    )


class Code(ctypes.Structure):
    """All of a program."""

    _fields_ = (
        ("instructions", ctypes.POINTER(Instruction)),
        ("tables", ctypes.POINTER(Table)),
        ("layers", ctypes.POINTER(Layer)),
        ("attentions", ctypes.POINTER(Attention)),
        ("arena", ctypes.c_void_p),
        ("history", ctypes.c_void_p),
        ("history_length", ctypes.c_int64),
        ("instruction_count", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("ids", ctypes.c_int64),
        ("positions", ctypes.c_int64),
        ("lengths", ctypes.c_int64),
        ("own_ids", ctypes.c_void_p),
    )


class Step(ctypes.Structure):
    """The tokens of a step; the addresses of one int64 for each."""

    _fields_ = (
        ("tokens", ctypes.c_int64),
        ("ids", ctypes.c_void_p),
        ("slots", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
    )
