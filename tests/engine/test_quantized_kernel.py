"""The quantized linear kernel against float64, and what a token's bits may depend on.

It sums a block of 64 inputs exactly, as integers of 8 bits. So an input is off by at most 1/254 of the
largest of its block; where that one stands out, 128 times less. Blocks are added in float32.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import needs_kernels
from outrider_server.engine.model.quantized_weights import BLOCK, LARGEST_CODE, QuantizedWeight
from outrider_server.engine.program.weights import PackedLayer, packed_quantized

from .products import multiply
from .subjects import random

pytestmark = needs_kernels
CODES = torch.tensor([-127, -99, -71, -55, -40, -31, -2, 0, 1, 3, 17, 28, 56, 77, 100, 126])
LEAST = 1e-30
"""A block whose largest input is below this counts as zeros."""
BITS = st.sampled_from([8, 4])


@dataclass(frozen=True)
class Case:
    """A layer, and what its weights stand for: [N, K] float64."""

    layer: PackedLayer
    weight: torch.Tensor
    bias: torch.Tensor


def case(bits: int, outputs: int, inputs: int, seed: int = 0, codes: torch.Tensor = CODES) -> Case:
    """Random numbers and scales, and a bias."""
    generator = torch.Generator().manual_seed(seed)
    scales = (
        torch.rand((outputs, 1 if bits == 8 else -(-inputs // BLOCK)), generator=generator) + 0.5
    )
    bias = torch.randn(outputs, generator=generator)
    if bits == 8:
        numbers = torch.randint(-127, 128, (outputs, inputs), generator=generator).to(torch.int8)
        weight = QuantizedWeight(numbers, scales)
        stands_for = numbers.double() * scales.double()
    else:
        numbers = torch.randint(0, 16, (outputs, inputs), generator=generator).to(torch.uint8)
        weight = QuantizedWeight(numbers, scales, codes.to(torch.int8))
        each = scales.double().repeat_interleave(BLOCK, dim=1)[:, :inputs]
        stands_for = codes.double()[numbers.long()] * each
    return Case(packed_quantized(weight, bias), stands_for, bias.double())


def rounding(tokens: torch.Tensor) -> torch.Tensor:
    """The most that each input may be off: [tokens, K] float64."""
    count, inputs = tokens.shape
    padded = torch.zeros((count, -(-inputs // BLOCK) * BLOCK), dtype=torch.float64)
    padded[:, :inputs] = tokens.double().abs()
    blocks = padded.view(count, -1, BLOCK)
    largest = blocks.amax(dim=2, keepdim=True)
    step = (largest / 127).clamp(min=1e-300)
    stands_out = (blocks / step).round().sum(dim=2, keepdim=True) * 16 < 127 * BLOCK
    off = torch.where(stands_out, step / 250, step / 1.99)
    off = torch.where(largest < LEAST, blocks, off)
    return off.view(count, -1)[:, :inputs]


@settings(max_examples=60)
@given(
    bits=BITS,
    tokens=st.integers(1, 70) | st.integers(120, 140),
    inputs=st.integers(1, 200),
    outputs=st.integers(1, 100) | st.integers(900, 1300),
    threads=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_a_quantized_product_is_the_product(
    bits: int, tokens: int, inputs: int, outputs: int, threads: int, seed: int
) -> None:
    torch.ops.outrider.set_threads(threads)
    made = case(bits, outputs, inputs, seed)
    x = random(tokens, inputs, seed=seed + 1).float()
    x[:: 1 + seed % 3, seed % inputs] *= 10 ** (seed % 5)
    wanted = x.double() @ made.weight.T + made.bias
    added = x.double().abs() @ made.weight.abs().T + made.bias.abs()
    of_inputs = rounding(x) @ made.weight.abs().T
    error = (multiply(made.layer, x).double() - wanted).abs()
    assert (error <= added * (inputs // BLOCK + 4) * 2**-23 + of_inputs).all()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("largest", [127, 127 * 64])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 7, 8, 9, 70])
def test_whole_numbers_are_summed_exactly(bits: int, largest: int, tokens: int) -> None:
    """Inputs of up to 64, one of each block but 127 or that 64 times."""
    generator = torch.Generator().manual_seed(tokens)
    numbers = torch.randint(-127, 128, (45, 150), generator=generator)
    x = torch.randint(-64, 65, (tokens, 150), generator=generator).float()
    x[::2, ::BLOCK] = largest
    x[1::2, ::BLOCK] = 127
    weight = QuantizedWeight(numbers.to(torch.int8), torch.ones((45, 1)))
    if bits == 4:
        places = numbers.remainder(16)
        weight = QuantizedWeight(places.to(torch.uint8), torch.ones((45, 3)), CODES.to(torch.int8))
        numbers = CODES[places]
    wanted = (x.double() @ numbers.double().T).float()
    assert torch.equal(multiply(packed_quantized(weight, None), x), wanted)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_weight_stands_where_it_belongs(bits: int) -> None:
    """A token that is 1 at one input and 0 elsewhere gives that input's weights."""
    made = case(bits, 70, 130)
    got = multiply(made.layer, torch.eye(130))
    torch.testing.assert_close(got.double(), made.weight.T + made.bias, rtol=1e-6, atol=1e-6)


@settings(max_examples=30)
@given(
    bits=BITS,
    begin=st.integers(0, 69),
    count=st.integers(1, 70),
    threads=st.integers(1, 3),
    inputs=st.sampled_from([1, 31, 64, 97, 320]),
)
def test_a_tokens_product_has_the_same_bits_in_any_company(
    bits: int, begin: int, count: int, threads: int, inputs: int
) -> None:
    made, x = case(bits, 300, inputs), random(70, inputs).float()
    together = multiply(made.layer, x)
    torch.ops.outrider.set_threads(threads)
    part = slice(begin, min(begin + count, 70))
    assert torch.equal(multiply(made.layer, x[part]), together[part])


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_inputs_and_weights_are_multiplied_whole(sign: int) -> None:
    """No sum of products of 8 bits is cut off on its way to 32 bits."""
    made = case(4, 33, 128, codes=torch.full((16,), sign * LARGEST_CODE))
    x = torch.full((9, 128), 255 / 128)
    wanted = x.double() @ made.weight.T + made.bias
    torch.testing.assert_close(multiply(made.layer, x).double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_no_number_stays_with_its_token(bits: int, value: str) -> None:
    made, x = case(bits, 40, 200), random(9, 200).float()
    wanted = multiply(made.layer, x)
    x[4, 70] = float(value)
    got = multiply(made.layer, x)
    assert got[4].isnan().all()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(got[others], wanted[others])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("size", [0.0, 1e-40, 3e-31, 1e-28, 1e30])
def test_inputs_of_any_size_are_scaled(bits: int, size: float) -> None:
    made = case(bits, 40, 200)
    x = random(3, 200).float() * size
    wanted = x.double() @ made.weight.T
    off = rounding(x) @ made.weight.abs().T + (x.double().abs() @ made.weight.abs().T) * 2**-20
    got = multiply(replace(made.layer, bias=None), x)
    assert ((got.double() - wanted).abs() <= off + 1e-37).all()
