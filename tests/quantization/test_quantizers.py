"""The quantizers: the guides' worked examples to the digit, and bounds on any numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outrider_server.core.errors import ModelRefused
from outrider_server.quantization.formats import number_formats
from outrider_server.quantization.quantizers import (
    Quantizer,
    Scope,
    quantize_absmax,
    quantize_zero_point,
)

QUANTIZERS = (quantize_absmax, quantize_zero_point)
ROUNDING = 2.0**-22
"""Of float32, relative: what comes back was rounded to it, and so was a row's scale."""

numbers = st.floats(-(2.0**100), 2.0**100, width=32)
matrices = st.integers(1, 6).flatmap(
    lambda columns: st.lists(
        st.lists(numbers, min_size=columns, max_size=columns), min_size=1, max_size=6
    )
)


def test_absmax_of_the_worked_example_to_the_digit() -> None:
    quantized = quantize_absmax(torch.tensor([0.1, 3.2, -1.0]), Scope.TENSOR)
    assert quantized.scale.item() == 127 / 3.2
    assert quantized.codes[0].item() == 4
    assert f"{quantized.dequantize()[0].item():.4f}" == "0.1008"


def test_zero_point_of_the_worked_example_to_the_digit() -> None:
    quantized = quantize_zero_point(torch.tensor([0.1, 3.2, -3.0]), Scope.TENSOR)
    assert f"{quantized.scale.item():.2f}" == "41.13"
    assert quantized.zero_point is not None
    assert quantized.zero_point.item() == -5
    assert quantized.codes.tolist() == [-1, 127, -128]
    assert f"{quantized.dequantize()[0].item():.4f}" == "0.0973"


@pytest.mark.parametrize("quantize", QUANTIZERS)
@pytest.mark.parametrize("scope", Scope)
@settings(deadline=None, max_examples=150)
@given(rows=matrices)
def test_a_number_comes_back_within_half_a_step(
    quantize: Quantizer, scope: Scope, rows: list[list[float]]
) -> None:
    values = torch.tensor(rows, dtype=torch.float32).to(torch.float64)
    quantized = quantize(values, scope)
    error = (quantized.dequantize(torch.float64) - values).abs()
    half_step = 0.5 / quantized.scale.to(torch.float64)
    assert bool((error <= half_step * (1 + 255 * ROUNDING)).all())


@pytest.mark.parametrize("quantize", QUANTIZERS)
@settings(deadline=None, max_examples=150)
@given(rows=matrices)
def test_a_scale_for_each_row_never_has_a_coarser_step(
    quantize: Quantizer, rows: list[list[float]]
) -> None:
    values = torch.tensor(rows, dtype=torch.float32)
    for_rows = quantize(values, Scope.ROW)
    whole = quantize(values, Scope.TENSOR)
    assert for_rows.scale.shape == (len(rows), 1)
    narrow = values.amax() - values.amin() < values.abs().amax() * 2.0**-19
    if quantize is quantize_absmax or not narrow:
        assert bool((for_rows.scale >= whole.scale).all())


def test_rows_of_different_size_lose_less_with_scales_of_their_own() -> None:
    values = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    values *= torch.logspace(-2, 1, 16).unsqueeze(-1)
    for quantize in QUANTIZERS:
        for_rows, whole = (
            (quantize(values, scope).dequantize() - values)[:8].abs().mean().item()
            for scope in (Scope.ROW, Scope.TENSOR)
        )
        assert for_rows < whole / 10


def test_zero_point_uses_codes_that_absmax_leaves_unused() -> None:
    positive = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert quantize_absmax(positive, Scope.TENSOR).codes.min() >= 0
    quantized = quantize_zero_point(positive, Scope.TENSOR)
    assert quantized.codes.min() == -128
    assert quantized.codes.max() == 127


@pytest.mark.parametrize("quantize", QUANTIZERS)
@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("constant", [0.0, 1.0, -3.5, 1e-30, 1e30, -1e-45])
def test_a_constant_comes_back(quantize: Quantizer, scope: Scope, constant: float) -> None:
    quantized = quantize(torch.full((3, 4), constant), scope)
    assert bool(torch.isfinite(quantized.scale).all())
    for number in quantized.dequantize().flatten().tolist():
        assert number == pytest.approx(constant, rel=1e-6, abs=1e-32)


@pytest.mark.parametrize("quantize", QUANTIZERS)
def test_zeros_come_back_as_zeros_beside_other_rows(quantize: Quantizer) -> None:
    values = torch.tensor([[0.0, 0.0], [1.0, -2.0]])
    back = quantize(values, Scope.ROW).dequantize()
    assert back[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("quantize", QUANTIZERS)
@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
@pytest.mark.parametrize("scope", Scope)
def test_nothing_becomes_nothing(quantize: Quantizer, shape: tuple[int, ...], scope: Scope) -> None:
    quantized = quantize(torch.empty(shape), scope)
    assert quantized.codes.shape == shape
    assert quantized.dequantize().shape == shape


@pytest.mark.parametrize("quantize", QUANTIZERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_finite_number_is_refused(quantize: Quantizer, bad: float) -> None:
    with pytest.raises(ModelRefused, match="no finite numbers"):
        quantize(torch.tensor([[1.0, bad]]), Scope.ROW)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_numbers_come_back_in_the_dtype_that_is_asked_for(dtype: torch.dtype) -> None:
    values = torch.tensor([[0.5, -1.0]], dtype=dtype)
    for quantize in QUANTIZERS:
        quantized = quantize(values, Scope.ROW)
        assert quantized.codes.dtype == torch.int8
        assert quantized.dequantize(dtype).dtype == dtype


def test_the_size_counts_codes_and_scales() -> None:
    values = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    sizes = [quantize(values, scope).size_bytes for quantize in QUANTIZERS for scope in Scope]
    assert sizes == [128 + 4, 128 + 8 * 4, 128 + 8, 128 + 8 * 8]


def test_the_formats_have_the_bits_that_their_standards_give_them() -> None:
    bits = {
        entry.name: (entry.sign_bits, entry.exponent_bits, entry.mantissa_bits)
        for entry in number_formats()
    }
    assert bits == {"fp32": (1, 8, 23), "fp16": (1, 5, 10), "bf16": (1, 8, 7), "int8": (1, 0, 7)}
