"""What bitsandbytes' layers hold, and the same layers on the engine's own kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models_for_tests import needs_kernels
from outrider_server.engine.model.int8 import Int8Linear
from outrider_server.engine.model.quantized_weights import (
    integer_codes,
    is_quantized,
    quantized_weight,
    why_not_taken,
)
from outrider_server.engine.program.weights import packed_quantized
from torch import nn

from .products import multiply
from .subjects import random

bitsandbytes = pytest.importorskip("bitsandbytes")
FORMATS = ["nf4", "fp4"]
LARGEST = {"nf4": 64, "fp4": 127}
"""Integer code."""
MEAN_ERROR = {"nf4": 0.0039, "fp4": 0.0012}
"""How far integer codes are from the format's values, of which the largest is 1."""


def four_bits(kind: str, outputs: int, inputs: int, **settings: Any) -> Any:
    """A layer of random weights, quantized by bitsandbytes, its bias full."""
    torch.manual_seed(1)
    plain = nn.Linear(inputs, outputs)
    layer = bitsandbytes.nn.Linear4bit(inputs, outputs, quant_type=kind, **settings)
    layer.load_state_dict(plain.state_dict())
    return layer.to("cpu")


def eight_bits(outputs: int, inputs: int) -> Int8Linear:
    torch.manual_seed(2)
    numbers = torch.randint(-127, 128, (outputs, inputs), dtype=torch.int8)
    return Int8Linear(numbers, torch.rand(outputs) + 0.5, torch.randn(outputs), 6.0)


def stands_for(layer: Any) -> torch.Tensor:
    """[N, K] float64, as bitsandbytes says."""
    if isinstance(layer, Int8Linear):
        return layer.weight.double() * layer.scale.double()[:, None] / 127
    return bitsandbytes.functional.dequantize_4bit(
        layer.weight.data, layer.weight.quant_state
    ).double()


@pytest.mark.parametrize("kind", FORMATS)
def test_codes_are_integers_near_the_formats_values(kind: str) -> None:
    values = bitsandbytes.functional.get_4bit_type(kind, device="cpu").double()
    codes, one = integer_codes(values)
    assert codes.dtype is torch.int8
    assert codes.abs().max() <= LARGEST[kind]
    assert torch.equal(codes == 0, values == 0)
    assert (codes.double() / one - values).square().mean().sqrt() <= MEAN_ERROR[kind]


LAYERS = {
    "int8": lambda: eight_bits(70, 100),
    "nf4": lambda: four_bits("nf4", 70, 192),
    "fp4": lambda: four_bits("fp4", 70, 192),
    "nf4 with plain scales": lambda: four_bits("nf4", 70, 192, compress_statistics=False),
    "nf4 in bfloat16 storage": lambda: four_bits("nf4", 64, 64, quant_storage=torch.bfloat16),
}


@needs_kernels
@pytest.mark.parametrize("build", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("tokens", [1, 9])
def test_a_layer_on_the_kernels_computes_what_it_holds(build: Any, tokens: int) -> None:
    layer = build()
    assert is_quantized(layer)
    assert why_not_taken(layer) == ""
    weight, bias = stands_for(layer), layer.bias.double()
    x = random(tokens, weight.shape[1])
    wanted = x.double() @ weight.T + bias
    got = multiply(packed_quantized(quantized_weight(layer), layer.bias), x)
    assert (got.double() - wanted).norm() <= 0.012 * wanted.norm()


def test_larger_blocks_keep_their_own_scales() -> None:
    layer = four_bits("nf4", 32, 256)
    weight = quantized_weight(layer)
    state = layer.weight.quant_state
    state.blocksize, state.absmax = 128, torch.arange(64, dtype=torch.uint8)
    coarse = quantized_weight(layer)
    assert (weight.scales.shape, weight.group) == ((32, 4), 64)
    assert (coarse.scales.shape, coarse.group) == ((32, 2), 128)


def test_blocks_that_do_not_end_with_a_row_are_not_taken() -> None:
    assert "64 inputs, not of 64 in 96" in why_not_taken(four_bits("nf4", 32, 96))
    assert "not of 32 in 128" in why_not_taken(_with_blocks(32))
    reordered = four_bits("nf4", 32, 128)
    reordered.weight.quant_state.packing_format_for_cpu = True
    assert "before bitsandbytes has reordered them" in why_not_taken(reordered)


def _with_blocks(size: int) -> Any:
    layer = four_bits("nf4", 32, 128)
    layer.weight.quant_state.blocksize = size
    return layer
