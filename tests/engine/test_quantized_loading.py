"""Quantized models: what loads, what it is called, what is refused, and that its steps keep the promise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models_for_tests import edit_json, llama_config, needs_kernels, save_folder
from outrider_server.core.errors import ModelRefused
from outrider_server.core.progress import silent
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import Row
from outrider_server.engine.model import quantizing
from outrider_server.engine.model.int8 import Int8Linear
from outrider_server.engine.model.loading import load_model
from outrider_server.engine.model.quantized_weights import is_quantized
from outrider_server.engine.options import CompileMode, EngineOptions
from outrider_server.engine.program.recorded import recorded_model
from outrider_server.engine.program.tables import Element
from outrider_server.host.building import engine_builder
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaForCausalLM

pytest.importorskip("bitsandbytes")
pytest.importorskip("accelerate")

CPU = torch.device("cpu")
KINDS = ["int8", "nf4", "fp4"]
LIKENESS = {"int8": 0.999, "nf4": 0.9, "fp4": 0.85}
"""Correlation of the logits; the weights are random, which is hard on four bits."""
SIZES = {"hidden_size": 128, "intermediate_size": 192, "initializer_range": 0.1}


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with linear layers of several blocks of 64 weights, whose inputs have outliers."""
    folder = save_folder(tmp_path_factory.mktemp("models") / "plain")
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(**SIZES)).to(torch.bfloat16)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight[3] = 7.0
            layer.post_attention_layernorm.weight[90] = 9.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(plain_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain_folder, tmp_path / "model"))


def save_quantized(folder: Path, kind: str) -> None:
    """Saves the folder's model as bitsandbytes quantizes it."""
    settings = {"load_in_8bit": True}
    if kind != "int8":
        settings = {"load_in_4bit": True, "bnb_4bit_quant_type": kind}
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=BitsAndBytesConfig(**settings), device_map={"": "cpu"}
    )
    model.save_pretrained(folder)


def engine(
    folder: Path, kind: str, dtype: str = "bfloat16", compile_mode: CompileMode = "off"
) -> Engine:
    """An audited engine of the library's eager steps; with `auto` on the engine's own kernels."""
    return engine_builder(
        EngineOptions(
            folder=folder,
            dtype=dtype,
            device="cpu",
            slots=4,
            rows=4,
            width=8,
            prefill_width=16,
            max_context_tokens=96,
            compile=compile_mode,
            threads=1,
            quantization=kind,
            park_bytes=0,
        )
    )()


def weight_bytes(model: torch.nn.Module) -> int:
    return sum(weight.nbytes for weight in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_model_is_smaller_and_says_what_it_is(folder: Path, kind: str) -> None:
    plain, quantized = load_model(folder, "auto", CPU), load_model(folder, "auto", CPU, kind)
    assert (plain.quantization, quantized.quantization) == ("", kind)
    assert quantized.parameter_count == plain.parameter_count
    assert quantized.model.dtype is torch.bfloat16
    assert quantized.model_fingerprint != plain.model_fingerprint
    assert quantized.vocabulary_fingerprint == plain.vocabulary_fingerprint
    linear = sum(
        module.weight.numel()
        for name, module in plain.model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    )
    bytes_each = 1.0 if kind == "int8" else 0.5
    saved = weight_bytes(plain.model) - weight_bytes(quantized.model)
    assert saved == linear * (2 - bytes_each)


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_model_says_nearly_what_the_plain_one_says(folder: Path, kind: str) -> None:
    tokens = torch.arange(40).view(1, -1)
    logits = []
    for wanted in ("none", kind):
        model = load_model(folder, "float32", CPU, wanted).model
        model.set_attn_implementation("sdpa")
        with torch.no_grad():
            logits.append(model(tokens).logits.flatten())
    likeness = torch.corrcoef(torch.stack(logits))[0, 1]
    assert likeness > LIKENESS[kind]
    assert not torch.equal(*logits)


@pytest.mark.parametrize("kind", KINDS)
def test_every_shape_of_a_step_gives_the_same_bits(folder: Path, kind: str) -> None:
    built = engine(folder, kind)
    assert built.audit.all_interchangeable, built.audit.findings
    assert built.describe().quantization == kind
    assert built.runner.kernel_note


@needs_kernels
@pytest.mark.parametrize("kind", KINDS)
def test_quantized_layers_run_on_the_engines_own_kernels(folder: Path, kind: str) -> None:
    built, aligned = engine(folder, kind, compile_mode="auto"), engine(folder, kind)
    assert built.runner.kernel_note == ""
    assert built.audit.all_interchangeable, built.audit.findings
    assert built.arithmetic != aligned.arithmetic
    model = built.loaded.model
    elements = [layer.element for layer in recorded_model(model, (), silent).layers]
    bits = Element.EIGHT_BITS if kind == "int8" else Element.FOUR_BITS
    assert elements.count(bits) == 14, "seven of each of two layers"
    assert elements.count(Element.BFLOAT16) == 1, "the output layer"
    originals = [module.weight for module in model.modules() if is_quantized(module)]
    assert originals == [None] * 14, "they are gone"
    row = Row(0, 0, tuple(range(8)))
    logits = [each.runner.logits([row], 1)[0].flatten() for each in (built, aligned)]
    assert torch.corrcoef(torch.stack(logits))[0, 1] > 0.998


@needs_kernels
def test_four_bits_whose_blocks_cross_rows_stay_on_the_librarys_kernels(folder: Path) -> None:
    """96 inputs are a block and a half; bitsandbytes' packed kernel does not take them either."""
    edit_json(folder / "config.json", intermediate_size=96)
    torch.manual_seed(0)
    config = llama_config(**(SIZES | {"intermediate_size": 96}))
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    built = engine(folder, "nf4", compile_mode="auto")
    assert "blocks of 64 inputs, not of 64 in 96" in built.runner.kernel_note
    assert engine(folder, "int8", compile_mode="auto").runner.kernel_note == ""


@pytest.mark.parametrize("compile_mode", ["off", pytest.param("auto", marks=needs_kernels)])
@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_row_decides_the_same_alone_and_beside_others(
    folder: Path, kind: str, compile_mode: CompileMode
) -> None:
    built = engine(folder, kind, compile_mode=compile_mode)
    own = Row(0, 0, tuple(range(8)))
    others = [Row(slot, 0, tuple((slot * 13 + k) % 61 for k in range(8))) for slot in (1, 2, 3)]
    alone = built.runner.logits([own], 1)[0].clone()
    for size in (1, 2, 3):
        assert torch.equal(built.runner.logits([own, *others[:size]], 4)[0], alone)
        assert torch.equal(built.runner.logits([*others[:size], own], 4)[size], alone)


def test_eight_bit_layers_are_the_engines_own(folder: Path) -> None:
    model = load_model(folder, "auto", CPU, "int8").model
    kinds = {type(module) for module in model.model.layers.modules() if hasattr(module, "weight")}
    assert Int8Linear in kinds
    assert "Linear8bitLt" not in {kind.__name__ for kind in kinds}


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_that_is_quantized_already_loads_without_a_flag(
    folder: Path, kind: str
) -> None:
    wanted = load_model(folder, "auto", CPU, kind).model.state_dict()
    save_quantized(folder, kind)
    loaded = load_model(folder, "auto", CPU)
    assert loaded.quantization == kind
    for name, tensor in loaded.model.state_dict().items():
        if name.endswith("proj.weight"):
            assert torch.equal(tensor, wanted[name]), name
    assert engine(folder, "none").audit.all_interchangeable
    with pytest.raises(ModelRefused, match=rf"quantized already \({kind}\)"):
        load_model(folder, "auto", CPU, "nf4")


def claims(method: object) -> Callable[[Path], None]:
    """Lets a folder say that it is quantized by a method."""
    settings = {"quant_method": method, "bits": 4, "group_size": 128, "zero_point": True}
    return lambda folder: edit_json(folder / "config.json", quantization_config=settings)


@pytest.mark.parametrize(
    ("method", "package"),
    [
        ("gptq", "optimum"),
        ("awq", "gptqmodel"),
        ("aqlm", "aqlm"),
        ("vptq", "vptq"),
    ],
)
def test_a_checkpoint_that_lacks_its_library_names_it(
    folder: Path, method: str, package: str
) -> None:
    if quantizing.find_spec(package):
        pytest.skip(f"{package} is installed")
    claims(method)(folder)
    with pytest.raises(ModelRefused, match=rf"quantized by {method}, .*pip install.*{package}"):
        load_model(folder, "auto", CPU)


def test_a_method_that_nobody_knows_is_refused(folder: Path) -> None:
    claims("homeopathy")(folder)
    with pytest.raises(ModelRefused, match="quantized by homeopathy, which transformers does not"):
        load_model(folder, "auto", CPU)


@pytest.mark.parametrize("lacking", ["bitsandbytes", "accelerate"])
def test_a_missing_package_is_named_with_what_to_install(
    folder: Path, lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantizing, "find_spec", lambda name: None if name == lacking else "there")
    with pytest.raises(ModelRefused, match=rf"int8 needs {lacking}: pip install 'outrider"):
        load_model(folder, "auto", CPU, "int8")
    load_model(folder, "auto", CPU)


def test_a_device_that_cannot_quantize_is_named(folder: Path) -> None:
    with pytest.raises(ModelRefused, match="nf4 runs on cpu and cuda, not on meta"):
        load_model(folder, "auto", torch.device("meta"), "nf4")


def test_a_model_without_a_layer_to_quantize_is_refused(folder: Path) -> None:
    edit_json(folder / "config.json", num_hidden_layers=0)
    with pytest.raises(ModelRefused, match="no linear layer that int8 quantizes"):
        load_model(folder, "auto", CPU, "int8")
