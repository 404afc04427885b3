"""Number formats: where the bits of a number go."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """The bits of one format, and what they reach."""

    name: str
    sign_bits: int
    exponent_bits: int
    mantissa_bits: int
    """The stored ones. Of int8, the bits beside the sign."""
    largest: float


def number_formats() -> tuple[NumberFormat, ...]:
    """fp32, fp16, bf16 and int8, from what torch says of them."""
    floats = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    int8 = torch.iinfo(torch.int8)
    return (
        *(_float_format(name, torch.finfo(dtype)) for name, dtype in floats.items()),
        NumberFormat("int8", 1, 0, int8.bits - 1, int8.max),
    )


def _float_format(name: str, limits: torch.finfo) -> NumberFormat:
    mantissa_bits = round(-math.log2(limits.eps))
    return NumberFormat(name, 1, limits.bits - 1 - mantissa_bits, mantissa_bits, limits.max)
