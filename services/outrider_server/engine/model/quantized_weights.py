"""What a quantized layer holds, taken apart for the engine's own kernels.

The kernels multiply integers. Of bitsandbytes' 8 bits these are the weights themselves, of 4 bits one of
sixteen for each of the format's values (`integer_codes`). GPTQ's and AWQ's numbers become integers around
zero; those of GGUF files are what the kernels take.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..gguf.integers import GROUP, LEAST, GgufLinear, numbers_of
from .int8 import LARGEST, Int8Linear
from .stored_weights import StoredLinear, StoredWeight

BLOCK = 64
"""Inputs that the kernels round together. So many weights share a scale, a multiple, half as many, or all."""
LARGEST_CODES = (64, 127)
"""A code has 8 bits. Where the CPU has no products of four, those up to 64 are multiplied faster."""


@dataclass(frozen=True, slots=True)
class QuantizedWeight:
    """A matrix [N, K]: its numbers, or the codes that they name, times a scale, plus an offset."""

    numbers: torch.Tensor
    """[N, K]: int8, or uint8 below 16."""
    scales: torch.Tensor
    """[N, groups] float32."""
    codes: torch.Tensor | None = None
    """[16] int8, of numbers of 4 bits."""
    offsets: torch.Tensor | None = None
    """[N, groups] float32."""
    group: int = 0
    """Inputs that share scale and offset: 32, or a multiple of 64. 0 for all."""


def is_quantized(layer: nn.Module) -> bool:
    """True for the layers that `quantized_weight` takes apart."""
    return isinstance(layer, Int8Linear | StoredLinear | GgufLinear) or is_four_bit(layer)


def is_four_bit(layer: nn.Module) -> bool:
    """True for bitsandbytes' layers of 4 bits. It is not imported where nothing else has."""
    modules = sys.modules.get("bitsandbytes.nn.modules")
    return modules is not None and isinstance(layer, modules.Linear4bit)


def why_not_taken(layer: Any) -> str:
    """One sentence why the kernels cannot take a quantized layer; nothing where they can."""
    if isinstance(layer, Int8Linear | StoredLinear | GgufLinear):
        return ""
    state = layer.weight.quant_state
    if getattr(state, "packing_format_for_cpu", False):
        return "the kernels take 4-bit weights before bitsandbytes has reordered them"
    if state.blocksize % BLOCK or layer.in_features % state.blocksize:
        return (
            f"the kernels take 4-bit weights in blocks of {BLOCK} inputs, "
            f"not of {state.blocksize} in {layer.in_features}"
        )
    return ""


def quantized_weight(layer: Any) -> QuantizedWeight:
    """What a layer holds, for which `why_not_taken` has nothing to say."""
    if isinstance(layer, Int8Linear):
        return QuantizedWeight(layer.weight.detach(), layer.scale[:, None] / LARGEST)
    if isinstance(layer, StoredLinear):
        return integers_around_zero(layer.stored_weight(), layer.stored.bits)
    if isinstance(layer, GgufLinear):
        return weight_of_blocks(layer.blocks, layer.kind)
    state = layer.weight.quant_state
    codes, largest = integer_codes(state.code)
    outputs, inputs = state.shape
    pairs = layer.weight.detach().view(torch.uint8).flatten()
    numbers = torch.stack((pairs >> 4, pairs & 15), dim=1).view(outputs, inputs)
    scales = _block_scales(state).view(outputs, -1) / largest
    return QuantizedWeight(numbers, scales, codes, group=state.blocksize)


def weight_of_blocks(blocks: torch.Tensor, kind: str) -> QuantizedWeight:
    """What blocks [N, bytes] of a GGUF file hold, of a type that `integers.py` takes apart."""
    held = numbers_of(blocks, kind)
    least = LEAST[kind]
    codes = None if held.numbers.dtype is torch.int8 else torch.arange(least, least + 16)
    return QuantizedWeight(
        held.numbers,
        held.scales,
        None if codes is None else codes.to(torch.int8),
        held.offsets,
        GROUP,
    )


def integers_around_zero(weight: StoredWeight, bits: int) -> QuantizedWeight:
    """`scale * (number - zero)` with the middle of all numbers taken off; where zeros are others, offsets."""
    middle = 1 << (bits - 1)
    zeros, scales, group = weight.zeros, weight.scales, weight.group
    if group % BLOCK and group != BLOCK // 2:
        repeats = group // (BLOCK // 2)
        groups = -(-weight.numbers.shape[1] // (BLOCK // 2))
        zeros = zeros.repeat_interleave(repeats, dim=1)[:, :groups]
        scales = scales.repeat_interleave(repeats, dim=1)[:, :groups]
        group = BLOCK // 2
    offsets = None if bool((zeros == middle).all()) else scales * (middle - zeros.float())
    if bits == 8:
        return QuantizedWeight(
            (weight.numbers ^ middle).view(torch.int8), scales, None, offsets, group
        )
    codes = torch.arange(-middle, middle, dtype=torch.int8)
    return QuantizedWeight(weight.numbers, scales, codes, offsets, group)


def _block_scales(state: Any) -> torch.Tensor:
    """The largest magnitude of every block, float32; it may be quantized itself."""
    scales: torch.Tensor = state.absmax
    if state.nested:
        from bitsandbytes.functional import dequantize_blockwise

        scales = dequantize_blockwise(scales, state.state2) + state.offset
    return scales.float()


def integer_codes(values: torch.Tensor) -> tuple[torch.Tensor, int]:
    """A format's values as integers, [16] int8, and the integer that stands for 1.

    They have 7 bits where none of the values becomes zero by it, and 8 elsewhere. nf4's have 7 and are off
    by 0.38 % of the largest in quadratic mean, which adds 0.8 % to the squared error of quantizing. fp4's
    have 8, as its least value is a 192nd of the largest, and are off by 0.11 %.
    """
    for largest in LARGEST_CODES:
        codes, one = _nearest_integers(values.double(), largest)
        if torch.equal(codes == 0, values == 0):
            break
    return codes, one


def _nearest_integers(exact: torch.Tensor, largest: int) -> tuple[torch.Tensor, int]:
    """Integers up to `largest`, and the one that stands for 1, chosen so that they come nearest."""
    ones = torch.arange(largest // 2, largest + 1)
    rounded = (exact * ones[:, None]).round()
    error = (rounded / ones[:, None] - exact).square().mean(dim=1)
    best = int(error.argmin())
    return rounded[best].to(torch.int8), int(ones[best])
