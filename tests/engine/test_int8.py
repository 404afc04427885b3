"""The 8-bit layer: exact integers, outliers in full precision, and a token's bits are its own."""

from __future__ import annotations

import pytest
import torch
from outrider_server.engine.model.int8 import LARGEST, Int8Linear, int8_linear

pytest.importorskip("bitsandbytes")

INPUTS, OUTPUTS = 96, 40
THRESHOLD = 6.0


def layer(threshold: float = THRESHOLD, bias: bool = False) -> tuple[Int8Linear, torch.Tensor]:
    """A layer of random weights, and what its weights stand for: [N, K] float64."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randint(
        -LARGEST, LARGEST + 1, (OUTPUTS, INPUTS), dtype=torch.int8, generator=generator
    )
    scale = torch.rand(OUTPUTS, generator=generator) + 0.5
    offset = torch.randn(OUTPUTS, generator=generator) if bias else None
    stands_for = weight.double() * scale.double()[:, None] / LARGEST
    return Int8Linear(weight, scale, offset, threshold), stands_for


def tokens(count: int, outlying: dict[int, dict[int, float]] | None = None) -> torch.Tensor:
    """Inputs below the threshold, [count, K] float32, but those named: token -> column -> value."""
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn((64, INPUTS), generator=generator).clamp(-5, 5)[:count]
    for token, values in (outlying or {}).items():
        for column, value in values.items():
            inputs[token, column] = value
    return inputs


def test_the_product_is_within_the_rounding_of_the_inputs() -> None:
    linear, stands_for = layer()
    inputs = tokens(16)
    wanted = inputs.double() @ stands_for.T
    step = inputs.abs().amax(dim=1, keepdim=True).double() / LARGEST
    # Each input is off by half a step, and by what float16 and the scale lose.
    bound = 0.51 * step * stands_for.abs().sum(dim=1) + 1e-3
    assert ((linear(inputs).double() - wanted).abs() <= bound).all()


def test_an_outlier_is_multiplied_in_full_precision() -> None:
    linear, stands_for = layer()
    inputs = torch.zeros((1, INPUTS))
    inputs[0, 7], inputs[0, 50] = 1234.567, -6.0
    wanted = inputs.double() @ stands_for.T
    torch.testing.assert_close(linear(inputs).double(), wanted, rtol=1e-6, atol=1e-3)
    rounded = layer(threshold=0)[0](inputs)
    assert (rounded.double() - wanted).abs().max() > 1


def test_the_bits_of_a_token_do_not_depend_on_its_neighbours_outliers() -> None:
    linear, _ = layer(bias=True)
    outliers = {0: {3: 90.0}, 2: {3: -7.0, 11: 8.0}, 5: {60: 400.0}}
    inputs = tokens(8, outliers)
    together = linear(inputs)
    for index in range(8):
        assert torch.equal(linear(inputs[index : index + 1])[0], together[index]), index
    assert torch.equal(linear(inputs.view(2, 4, -1)).flatten(0, 1), together)
    assert torch.equal(linear(inputs.flip(0)).flip(0), together)
    assert torch.equal(linear(torch.cat((tokens(40), inputs)))[40:], together)


def test_bitsandbytes_own_layer_agrees_where_one_token_stands_alone() -> None:
    from bitsandbytes.functional import int8_vectorwise_quant

    inputs = tokens(1, {0: {3: 90.0, 60: -8.0}})
    linear, _ = layer()
    rounded, largest, columns = int8_vectorwise_quant(inputs.half(), threshold=THRESHOLD)
    theirs, _ = torch.ops.bitsandbytes.int8_mixed_scaled_mm(
        inputs, rounded, linear.weight, largest, linear.scale, columns, None
    )
    torch.testing.assert_close(linear(inputs), theirs, rtol=1e-3, atol=2e-2)


def test_tokens_of_zeros_give_zeros_and_numbers_that_are_none_stay_none() -> None:
    linear, _ = layer()
    inputs = torch.zeros((3, INPUTS))
    inputs[1, 4] = float("nan")
    out = linear(inputs)
    assert torch.equal(out[[0, 2]], torch.zeros((2, OUTPUTS)))
    assert out[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_operator_keeps_dtype_and_shape_as_the_compiler_is_told(dtype: torch.dtype) -> None:
    linear, _ = layer(bias=True)
    inputs = tokens(6, {1: {2: 9.0}}).view(2, 3, INPUTS).to(dtype)
    out = linear(inputs)
    assert (out.dtype, out.shape) == (dtype, (2, 3, OUTPUTS))
    arguments = (inputs, linear.weight.data, linear.scale, linear.bias, linear.threshold)
    torch.library.opcheck(int8_linear, arguments, test_utils=("test_schema", "test_faketensor"))
