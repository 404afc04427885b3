"""Eight-bit weight quantization: absmax and zero-point, per tensor and per row.

Owns the arithmetic alone; knows nothing of models. The formulas are those of Dettmers et al., "LLM.int8():
8-bit Matrix Multiplication for Transformers at Scale" (arXiv 2208.07339), section 2.1. All of it runs in
float64 with the scale as it is stored, so a value comes back within half a step, 1 / scale.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..core.errors import ModelRefused

LARGEST_CODE = 127
SMALLEST_CODE = -128
CODES = 255
"""Steps between the smallest and the largest code."""
SMALLEST_SPAN = 2.0**-100
"""Spans below are taken as this one: their scale would leave float32. Zeros stay zeros."""
SMALLEST_RELATIVE_SPAN = 2.0**-20
"""Least max - min over max|X|: the zero point of a narrower range, or of a constant, would leave int32."""


class Scope(enum.StrEnum):
    """What shares one scale."""

    TENSOR = "tensor"
    ROW = "row"
    """Everything along the last dimension: one output of a linear layer. Also called vector-wise."""


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """Codes, and what turns them back into numbers."""

    codes: torch.Tensor
    """int8, of the shape of the source."""
    scale: torch.Tensor
    """float32: codes per unit; [] for a tensor, [..., 1] for rows."""
    zero_point: torch.Tensor | None
    """int32, of the scale's shape: the code of 0, which may lie outside the codes. None where it is 0."""

    @property
    def size_bytes(self) -> int:
        """What all of this takes."""
        parts = (self.codes, self.scale, self.zero_point)
        return sum(part.nbytes for part in parts if part is not None)

    def dequantize(self, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """The numbers that the codes stand for, in `dtype`, of the shape of the codes."""
        steps = self.codes.to(torch.float64)
        if self.zero_point is not None:
            steps = steps - self.zero_point
        return (steps / self.scale.to(torch.float64)).to(dtype)


def quantize_absmax(values: torch.Tensor, scope: Scope) -> QuantizedTensor:
    """Symmetric: scale = 127 / max|X|, codes = round(scale * X).

    values: any shape and floating dtype. Raises ModelRefused where a value is no finite number.
    """
    numbers = _finite(values)
    low, high = _extremes(numbers, scope)
    largest = torch.maximum(high, -low).clamp(min=SMALLEST_SPAN)
    scale = (LARGEST_CODE / largest).to(torch.float32)
    codes = (numbers * scale.to(torch.float64)).round()
    return QuantizedTensor(codes.to(torch.int8), scale, None)


def quantize_zero_point(values: torch.Tensor, scope: Scope) -> QuantizedTensor:
    """Asymmetric: scale = 255 / (max - min), zero point = round(-scale * min - 128).

    codes = round(scale * X + zero point), clipped to [-128, 127].

    values: any shape and floating dtype. Raises ModelRefused where a value is no finite number.
    """
    numbers = _finite(values)
    low, high = _extremes(numbers, scope)
    narrowest = torch.maximum(high, -low) * SMALLEST_RELATIVE_SPAN
    span = torch.maximum(high - low, narrowest).clamp(min=SMALLEST_SPAN)
    scale = (CODES / span).to(torch.float32)
    exact_scale = scale.to(torch.float64)
    zero_point = (-exact_scale * low + SMALLEST_CODE).round()
    codes = (numbers * exact_scale + zero_point).round().clamp(SMALLEST_CODE, LARGEST_CODE)
    return QuantizedTensor(codes.to(torch.int8), scale, zero_point.to(torch.int32))


Quantizer = Callable[[torch.Tensor, Scope], QuantizedTensor]


def _finite(values: torch.Tensor) -> torch.Tensor:
    """The values in float64. Raises ModelRefused for infinities and NaN."""
    if not bool(torch.isfinite(values).all()):
        raise ModelRefused("weights that are no finite numbers cannot be quantized")
    return values.to(torch.float64)


def _extremes(numbers: torch.Tensor, scope: Scope) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest value of each part that shares a scale; 0 for empty parts."""
    if scope is Scope.ROW and numbers.dim() == 0:
        numbers = numbers.unsqueeze(0)
    if numbers.numel() == 0:
        shape = (*numbers.shape[:-1], 1) if scope is Scope.ROW else ()
        return numbers.new_zeros(shape), numbers.new_zeros(shape)
    if scope is Scope.ROW:
        return numbers.amin(dim=-1, keepdim=True), numbers.amax(dim=-1, keepdim=True)
    return numbers.amin(), numbers.amax()
