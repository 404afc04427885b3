"""Linear layers over weights of 16 and 32 bits against float64, at every level, and what bits depend on.

Sums are float32; their error is bounded by the sum of the magnitudes that were added. Where the CPU
multiplies bfloat16, tokens are rounded to it before they meet weights of bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outrider_server.engine.cpp_compiler import cpp_compiler

from .arithmetic_driver import TILE, ArithmeticKernels
from .kernel_levels import DRIVEN_UNITS

pytestmark = pytest.mark.skipif(not cpp_compiler(), reason="no C++ compiler was found")

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
UNTOUCHED = 77.0
formats = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(scope="module", params=DRIVEN_UNITS)
def kernels(request: pytest.FixtureRequest) -> Iterator[ArithmeticKernels]:
    opened = ArithmeticKernels(request.param)
    yield opened
    opened.close()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def linear(
    kernels: ArithmeticKernels,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    gap: int = 0,
) -> torch.Tensor:
    """x [T, K] -> [T, N]; so many numbers lie behind each row that are none, and stay what they were."""
    (outputs, inputs), count = weight.shape, len(x)
    rows = torch.cat((x, torch.full((count, gap), math.nan)), dim=1)
    y = torch.full((count, outputs + gap), UNTOUCHED)
    got = kernels.multiply(rows, kernels.pack(weight), bias, y, inputs, outputs)
    assert (got[:, outputs:] == UNTOUCHED).all()
    return got[:, :outputs]


@formats
@settings(max_examples=25)
@given(
    tokens=st.integers(1, 70),
    inputs=st.integers(1, 97),
    outputs=st.integers(1, 100) | st.integers(900, 1300),
    biased=st.booleans(),
    threads=st.integers(1, 3),
    gap=st.integers(0, 3),
    seed=st.integers(0, 999),
)
def test_a_product_is_the_product(
    kernels: ArithmeticKernels,
    dtype: torch.dtype,
    tokens: int,
    inputs: int,
    outputs: int,
    biased: bool,
    threads: int,
    gap: int,
    seed: int,
) -> None:
    kernels.set_threads(threads)
    outputs = min(outputs, 1300 // kernels.thrift)
    x, weight = random(tokens, inputs, seed=seed), random(outputs, inputs, seed=seed + 1).to(dtype)
    bias = random(outputs, seed=seed + 2) if biased else None
    got = linear(kernels, x, weight, bias, gap)
    exact = (x.bfloat16() if kernels.rounds_tokens(dtype) else x).double()
    added = exact.abs() @ weight.double().abs().T + (0 if bias is None else bias.abs())
    wanted = exact @ weight.double().T + (0 if bias is None else bias.double())
    assert ((got.double() - wanted).abs() <= added * inputs * 2**-23).all()


@formats
@settings(max_examples=20)
@given(
    begin=st.integers(0, 69),
    count=st.integers(1, 70),
    threads=st.integers(1, 3),
    inputs=st.sampled_from([1, 2, 31, 64, 97]),
)
def test_a_tokens_product_has_the_same_bits_in_any_company(
    kernels: ArithmeticKernels,
    dtype: torch.dtype,
    begin: int,
    count: int,
    threads: int,
    inputs: int,
) -> None:
    """Half of each sum takes the other half back, so the order of its roundings is all that is left of it."""
    outputs = 10 + 1280 // kernels.thrift
    x, weight = random(70, inputs), random(outputs, inputs, seed=1).to(dtype)
    x, weight = torch.cat((x, x), dim=1), torch.cat((weight, -weight), dim=1)
    kernels.set_threads(1)
    together = linear(kernels, x, weight)
    kernels.set_threads(threads)
    part = slice(begin, min(begin + count, 70))
    assert torch.equal(linear(kernels, x[part], weight), together[part])


@formats
@pytest.mark.parametrize("count", [2, 9, 40])
def test_a_token_that_is_no_number_leaves_the_others_alone(
    kernels: ArithmeticKernels, dtype: torch.dtype, count: int
) -> None:
    x, weight = random(count, 33), random(50, 33, seed=1).to(dtype)
    wanted = linear(kernels, x, weight)
    for spoiled in (0, count // 2, count - 1):
        hurt = x.clone()
        hurt[spoiled, -1] = math.nan
        got = linear(kernels, hurt, weight)
        assert got[spoiled].isnan().all()
        others = torch.arange(count) != spoiled
        assert torch.equal(got[others], wanted[others])


@formats
@pytest.mark.parametrize("inputs", [1, 33, 50])
def test_what_an_earlier_layer_was_multiplied_by_reaches_nothing(
    kernels: ArithmeticKernels, dtype: torch.dtype, inputs: int
) -> None:
    """Rows are padded to a multiple of 32 inputs, in memory that the last layer's tokens were in."""
    x, weight = random(3, inputs), random(40, inputs, seed=1).to(dtype)
    wanted = linear(kernels, x, weight)
    assert (
        linear(kernels, torch.full((3, 64), math.nan), torch.ones((40, 64), dtype=dtype))
        .isnan()
        .all()
    )
    assert torch.equal(linear(kernels, x, weight), wanted)


@formats
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (32, 8), (33, 7), (70, 34)])
def test_packed_weights_lie_in_tiles_of_32_outputs_and_lines_of_two_inputs(
    kernels: ArithmeticKernels, dtype: torch.dtype, outputs: int, inputs: int
) -> None:
    """Of bfloat16 an output's two weights lie beside each other; else all of the first input come first."""
    weight = random(outputs, inputs).to(dtype)
    packed = kernels.pack(weight)
    tiles, pairs, _ = packed.shape
    assert (tiles, pairs) == (-(-outputs // TILE), 16 * -(-inputs // TILE))
    padded = torch.zeros((tiles * TILE, pairs * 2), dtype=dtype)
    padded[:outputs, :inputs] = weight
    lines = packed.view(tiles, pairs, TILE, 2)
    if dtype != torch.bfloat16:
        lines = packed.view(tiles, pairs, 2, TILE).transpose(2, 3)
    assert torch.equal(lines.permute(0, 2, 1, 3).reshape(padded.shape), padded)
