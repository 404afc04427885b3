"""Every method on tiny models: what it does to weights, bytes and the model itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from outrider_server.core.errors import ModelRefused
from outrider_server.quantization.comparison import WeightComparison
from outrider_server.quantization.layers import model_bytes, output_rows, quantized_layers
from outrider_server.quantization.methods import run_method
from outrider_server.quantization.quantizers import Scope, quantize_absmax
from outrider_server.quantization.reading import agreement, read_windows
from outrider_server.quantization.settings import LIBRARY_METHODS, METHODS, OWN_METHODS

from tests.models_for_tests import tiny_llama

from .subjects import gpt2, gpt2_folder, llama_folder, subject

GPT2_LAYERS = 2 * 4
GPT2_WEIGHTS = 2 * (64 * 192 + 64 * 64 + 64 * 256 + 256 * 64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpt2_folder(tmp_path_factory.mktemp("gpt2"))


def require_library(method: str) -> None:
    if method in LIBRARY_METHODS:
        pytest.importorskip("bitsandbytes")
        pytest.importorskip("accelerate")


def test_the_layers_are_all_linear_ones_but_the_head() -> None:
    assert len(quantized_layers(gpt2())) == GPT2_LAYERS
    names = set(quantized_layers(tiny_llama()))
    assert len(names) == 2 * 7
    assert "lm_head" not in names


def test_a_transposed_layer_is_seen_by_its_outputs_and_written_through() -> None:
    model = gpt2()
    layer = model.transformer.h[0].attn.c_attn
    assert output_rows(layer).shape == (192, 64)
    output_rows(layer)[7] = 3.0
    assert layer.weight[:, 7].tolist() == [3.0] * 64


def test_tied_weights_count_once() -> None:
    model = gpt2()
    assert model_bytes(model) == 4 * sum(part.numel() for part in model.parameters())
    assert model.lm_head.weight.data_ptr() == model.transformer.wte.weight.data_ptr()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_loses_little_and_leaves_the_model_as_it_was(method: str, folder: Path) -> None:
    require_library(method)
    found = subject(folder)
    before = {name: part.clone() for name, part in found.model.state_dict().items()}
    original = read_windows(found.model, found.windows)
    outcome = run_method(method, found)
    assert list(outcome.comparison.errors) == list(found.layers)
    most = 0.2 if method in ("nf4", "fp4") else 0.03
    assert all(0 < error < most for error in outcome.comparison.errors.values())
    assert original.perplexity is not None
    assert outcome.reading.perplexity == pytest.approx(original.perplexity, rel=0.2)
    assert 0.5 < agreement(outcome.reading, original)[0.0] <= 1
    assert (
        outcome.reading.draws[1.0].tolist() != original.draws[1.0].tolist() or method in METHODS[:6]
    )
    after = found.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bytes_are_codes_scales_and_the_rest(folder: Path) -> None:
    whole = model_bytes(subject(folder).model)
    rest = whole - 4 * GPT2_WEIGHTS
    outputs = 2 * (192 + 64 + 256 + 64)
    sizes = {
        method: run_method(method, subject(folder)).size_bytes - rest - GPT2_WEIGHTS
        for method in OWN_METHODS
    }
    assert sizes == {
        "absmax": 4 * GPT2_LAYERS,
        "zero-point": 8 * GPT2_LAYERS,
        "absmax-row": 4 * outputs,
        "zero-point-row": 8 * outputs,
    }


def test_the_librarys_bytes_are_a_byte_or_half_a_byte_a_weight(folder: Path) -> None:
    """And its own descriptions: a scale an output or 64 weights, a table and a tag a layer."""
    require_library("int8")
    rest = model_bytes(subject(folder).model) - 4 * GPT2_WEIGHTS
    int8, nf4 = (
        run_method(method, subject(folder)).size_bytes - rest for method in ("int8", "nf4")
    )
    outputs = 2 * (192 + 64 + 256 + 64)
    assert int8 == GPT2_WEIGHTS + 4 * outputs + GPT2_LAYERS
    exact = GPT2_WEIGHTS // 2 + GPT2_WEIGHTS // 64 * 4
    assert exact < nf4 < exact + 256 * GPT2_LAYERS


def test_the_librarys_int8_weights_are_absmax_by_row(folder: Path) -> None:
    """It rounds through fp16 on the way, hence not to the last bit."""
    require_library("int8")
    errors = [run_method(method, subject(folder)).comparison for method in ("int8", "absmax-row")]
    assert errors[0].mean_error == pytest.approx(errors[1].mean_error, rel=0.02)
    torch.testing.assert_close(errors[0].after, errors[1].after, rtol=0.2, atol=60.0)


@pytest.mark.parametrize("method", LIBRARY_METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_library_takes_shapes_that_its_packed_kernel_does_not(
    method: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    require_library(method)
    found = subject(llama_folder(tmp_path), dtype)
    outcome = run_method(method, found)
    original = read_windows(found.model, found.windows)
    assert original.perplexity is not None
    assert outcome.reading.perplexity == pytest.approx(original.perplexity, rel=0.5)


def test_the_error_is_the_norm_of_the_difference_over_that_of_the_original() -> None:
    comparison = WeightComparison(limit=4.0)
    comparison.add("first", torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.5]]))
    comparison.add("second", torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0]]))
    comparison.add("zero", torch.zeros(1, 2), torch.zeros(1, 2))
    assert comparison.errors == {"first": 0.1, "second": 0.0, "zero": 0.0}
    assert comparison.mean_error == pytest.approx(0.1 / 3)


def test_a_histogram_counts_every_weight_and_shows_the_steps() -> None:
    weights = torch.randn(50, 60, generator=torch.Generator().manual_seed(0)).clamp(-3, 3)
    comparison = WeightComparison(limit=2.0)
    coarse = (weights * 2).round() / 2
    comparison.add("layer", weights, coarse)
    assert comparison.before.sum() == comparison.after.sum() == weights.numel()
    assert (comparison.after > 0).sum() == 9
    assert (comparison.before > 0).sum() > 150
    assert comparison.before[-1] >= (weights > 2).sum()


def test_weights_that_are_no_numbers_are_refused_by_layer() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.inf
    with pytest.raises(ModelRefused, match=r"layers\.1\.mlp\.up_proj are no finite numbers"):
        quantized_layers(model)


def test_a_model_that_is_quantized_already_is_refused() -> None:
    model = tiny_llama()
    model.config.quantization_config = {"quant_method": "gptq"}
    with pytest.raises(ModelRefused, match="quantized already"):
        quantized_layers(model)


def test_weights_are_restored_when_reading_fails(folder: Path) -> None:
    found = subject(folder)
    name, layer = next(iter(found.layers.items()))
    before = output_rows(layer).clone()
    assert not torch.equal(quantize_absmax(before, Scope.TENSOR).dequantize(), before), name
    found.windows[0][0] = 10**6
    with pytest.raises(IndexError):
        run_method("absmax", found)
    assert torch.equal(output_rows(layer), before)
