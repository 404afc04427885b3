"""LLM.int8() as a reference, beside bitsandbytes' own."""

from __future__ import annotations

import logging

import pytest
import torch
from outrider_server.quantization.mixed import largest_per_column, mixed_matmul
from outrider_server.quantization.quantizers import Scope, quantize_absmax

TOKENS, INPUTS, OUTPUTS = 12, 64, 32


def operands(outliers: dict[int, float] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs [T, K] and weights [N, K], float16 values; each outlier in one token of its column."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(TOKENS, INPUTS, generator=generator).clamp(-4, 4)
    weight = torch.randn(OUTPUTS, INPUTS, generator=generator) * 0.1
    for column, value in (outliers or {}).items():
        inputs[column % TOKENS, column] = value
    return inputs.half(), weight.half()


def exact(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return inputs.double() @ weight.double().T


def test_outlier_columns_are_those_of_any_token() -> None:
    inputs, _ = operands({5: 40.0, 17: -9.0})
    assert (largest_per_column(inputs) >= 6).nonzero().flatten().tolist() == [5, 17]


def test_an_outlier_spoils_plain_int8_and_not_the_mixed_product() -> None:
    inputs, weight = (part.double() for part in operands())
    usual = exact(inputs, weight).norm()
    inputs[:, 5] = 400.0
    plain, mixed = (
        (mixed_matmul(inputs, weight, threshold) - exact(inputs, weight)).norm() / usual
        for threshold in (1e9, 6.0)
    )
    assert mixed < 0.02
    assert plain > 20 * mixed


def test_columns_with_outliers_are_multiplied_exactly() -> None:
    inputs, weight = operands()
    everything = mixed_matmul(inputs.double(), weight.double(), threshold=0.0)
    assert torch.equal(everything, exact(inputs, weight))


def test_without_outliers_it_is_the_product_of_the_rounded_rows() -> None:
    inputs, weight = operands()
    rounded = [
        quantize_absmax(part, Scope.ROW).dequantize(torch.float64) for part in (inputs, weight)
    ]
    right = rounded[0] @ rounded[1].T
    torch.testing.assert_close(mixed_matmul(inputs.double(), weight), right)


def library_product(inputs: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What bitsandbytes' layer gives, [T, N]."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = bitsandbytes.nn.Linear8bitLt(
        INPUTS, OUTPUTS, bias=False, has_fp16_weights=False, threshold=6.0
    )
    layer.weight = bitsandbytes.nn.Int8Params(
        weight.clone(), requires_grad=False, has_fp16_weights=False
    )
    with torch.inference_mode():
        product: torch.Tensor = layer.to("cpu").eval()(inputs)
    return product


def test_without_outliers_bitsandbytes_gives_the_same() -> None:
    inputs, weight = operands()
    torch.testing.assert_close(
        library_product(inputs, weight), mixed_matmul(inputs, weight), rtol=2e-3, atol=5e-3
    )


def test_with_outliers_bitsandbytes_differs_by_the_rounding_of_its_outlier_weights() -> None:
    """Bound: each outlier input times half a step of that row's weights, and fp16's rounding."""
    inputs, weight = operands({5: 40.0, 17: -9.0})
    found = library_product(inputs, weight).double()
    reference = mixed_matmul(inputs.double(), weight)
    half_steps = 0.5 / quantize_absmax(weight, Scope.ROW).scale.double()
    allowed = inputs[:, [5, 17]].double().abs().sum(dim=1, keepdim=True) * half_steps.T
    assert bool(((found - reference).abs() <= allowed + 5e-3 + 2e-3 * reference.abs()).all())
    rounded = quantize_absmax(weight, Scope.ROW).dequantize(torch.float64)
    shift = inputs[:, [5, 17]].double() @ (rounded - weight.double())[:, [5, 17]].T
    torch.testing.assert_close(found, reference + shift, rtol=2e-3, atol=2e-2)
