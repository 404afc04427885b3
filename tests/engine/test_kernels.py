"""The linear kernel against float64, and what a token's bits may depend on: nothing but it and the weights.

Its sums are float32; their error is bounded by the sum of the magnitudes that were added. Where bfloat16 is
wanted it rounds them once, at the end.
"""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import needs_kernels
from outrider_server.engine.cpp_compiler import NO_COMPILER
from outrider_server.engine.kernels import kernels_missing
from outrider_server.engine.kernels.levels import LEVELS

from .kernel_levels import EMULATED, OTHERS, Operators, why_not_emulated
from .subjects import random

BUILT_OR_IMPOSSIBLE = {
    "",
    NO_COMPILER,
    f"the CPU has none of {', '.join(level.name for level in LEVELS)}",
}


def test_the_kernels_are_there_wherever_they_can_be() -> None:
    """All else here would be skipped where they could not be built, and say so only in the reason."""
    assert kernels_missing() in BUILT_OR_IMPOSSIBLE


def test_the_kernels_of_another_machine_run_here_too() -> None:
    """They are left out without a word below, so here it is said what is missing."""
    for level in LEVELS:
        if level.machine in EMULATED and level.machine != platform.machine():
            if missing := why_not_emulated(level):
                pytest.skip(missing)
            assert level.name in OTHERS


@needs_kernels
def test_the_compiler_knows_a_level_by_its_name(operators: Operators) -> None:
    assert operators.kernel_level() == operators.level.name


def linear(
    operators: Operators,
    tokens: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> torch.Tensor:
    """The kernel over freshly packed weights; the bias is padded as the packed layer does it."""
    packed = operators.pack_linear(weight)
    padded = None
    if bias is not None:
        padded = torch.zeros(packed.shape[0] * 32)
        padded[: len(bias)] = bias
    return operators.packed_linear(tokens, packed, padded, len(weight), dtype)


@needs_kernels
@settings(max_examples=60)
@given(
    tokens=st.integers(1, 70),
    inputs=st.integers(1, 97),
    outputs=st.integers(1, 100) | st.integers(900, 1300),
    biased=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_a_packed_product_is_the_product(
    operators: Operators,
    tokens: int,
    inputs: int,
    outputs: int,
    biased: bool,
    threads: int,
    seed: int,
) -> None:
    operators.set_threads(threads)
    x, weight = random(tokens, inputs, seed=seed), random(outputs, inputs, seed=seed + 1)
    bias = random(outputs, seed=seed + 2).float() if biased else None
    wanted = x.double() @ weight.double().T + (0 if bias is None else bias.double())
    added = x.double().abs() @ weight.double().abs().T + (0 if bias is None else bias.abs())
    sums = linear(operators, x, weight, bias, torch.float32)
    assert ((sums.double() - wanted).abs() <= added * inputs * 2**-23).all()
    assert torch.equal(linear(operators, x, weight, bias), sums.bfloat16())


@needs_kernels
@pytest.mark.parametrize("shape", [(7,), (1, 7), (2, 3, 7), (1, 2, 1, 7)])
def test_leading_dimensions_stay(operators: Operators, shape: tuple[int, ...]) -> None:
    x, weight = random(*shape), random(33, 7, seed=1)
    got = linear(operators, x, weight)
    assert got.shape == (*shape[:-1], 33)
    assert torch.equal(got.view(-1, 33), linear(operators, x.reshape(-1, 7), weight))


@needs_kernels
def test_tokens_that_do_not_lie_in_order_are_read_in_order(operators: Operators) -> None:
    x, weight = random(9, 14), random(40, 9, seed=1)
    assert torch.equal(linear(operators, x.T, weight), linear(operators, x.T.contiguous(), weight))


@needs_kernels
@settings(max_examples=30)
@given(
    begin=st.integers(0, 69),
    count=st.integers(1, 70),
    threads=st.integers(1, 3),
    inputs=st.sampled_from([1, 2, 31, 64, 97]),
)
def test_a_tokens_product_has_the_same_bits_in_any_company(
    operators: Operators, begin: int, count: int, threads: int, inputs: int
) -> None:
    """Half of each sum takes the other half back, so the order of its roundings is all that is left of it."""
    outputs = 10 + 1280 // operators.thrift
    x, weight = random(70, inputs), random(outputs, inputs, seed=1)
    x, weight = torch.cat((x, x), dim=1), torch.cat((weight, -weight), dim=1)
    together = linear(operators, x, weight)
    operators.set_threads(threads)
    part = slice(begin, min(begin + count, 70))
    assert torch.equal(linear(operators, x[part], weight), together[part])


@needs_kernels
def test_callers_at_once_get_their_own_products() -> None:
    """One of them has the helpers, the others work alone; the number of helpers changes meanwhile."""
    weight = random(1290, 64, seed=1)
    asked = [random(tokens, 64, seed=tokens) for tokens in range(1, 9)]
    packed = torch.ops.outrider.pack_linear(weight)
    wanted = [linear(torch.ops.outrider, x, weight) for x in asked]

    def call(index: int) -> bool:
        torch.ops.outrider.set_threads(1 + index % 4)
        got = torch.ops.outrider.packed_linear(asked[index % 8], packed, None, 1290, torch.bfloat16)
        return torch.equal(got, wanted[index % 8])

    with ThreadPoolExecutor(3) as callers:
        assert all(callers.map(call, range(300)))


@needs_kernels
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (32, 8), (33, 7), (70, 12)])
def test_packed_weights_lie_in_tiles_of_32_outputs_and_pairs_of_inputs(
    operators: Operators, outputs: int, inputs: int
) -> None:
    weight = random(outputs, inputs)
    packed = operators.pack_linear(weight)
    assert packed.shape == (-(-outputs // 32), 16 * -(-inputs // 32), 32, 2)
    padded = torch.zeros((packed.shape[0] * 32, packed.shape[1] * 2), dtype=torch.bfloat16)
    padded[:outputs, :inputs] = weight
    assert torch.equal(packed.permute(0, 2, 1, 3).reshape(padded.shape), padded)


@needs_kernels
def test_the_operators_declared_shape_is_its_shape() -> None:
    packed = torch.ops.outrider.pack_linear(random(33, 7))
    operator = torch.ops.outrider.packed_linear.default
    for bias in (None, torch.ones(64)):
        for dtype in (torch.bfloat16, torch.float32):
            torch.library.opcheck(operator, (random(1, 5, 7), packed, bias, 33, dtype))
