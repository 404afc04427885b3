"""GPTQ and AWQ checkpoints, written here from the formats' definitions: read, served, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import edit_json, llama_config, needs_kernels, save_folder
from outrider_server.core.errors import ModelRefused
from outrider_server.core.progress import Report, silent
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import Row
from outrider_server.engine.model import quantizing
from outrider_server.engine.model.loading import LoadedModel, load_model
from outrider_server.engine.model.quantized_weights import quantized_weight
from outrider_server.engine.model.stored_weights import StoredLinear
from outrider_server.engine.options import EngineOptions
from outrider_server.engine.program.recorded import recorded_model
from outrider_server.host.building import engine_builder
from stored_checkpoints import Writer, change_tensors, save_stored
from transformers import LlamaForCausalLM

CPU = torch.device("cpu")
SIZES = {"hidden_size": 128, "intermediate_size": 192, "initializer_range": 0.1}
WRITERS = [
    Writer("gptq", 4, 128, symmetric=True),
    Writer("gptq", 4, 128),
    Writer("gptq", 4, 32, version="gptq"),
    Writer("gptq", 4, 64, version="gptq_v2"),
    Writer("gptq", 4, 96),
    Writer("gptq", 4, -1),
    Writer("gptq", 8, 32),
    Writer("gptq", 8, -1, symmetric=True),
    Writer("awq", 4, 128),
    Writer("awq", 4, 64, symmetric=True),
    Writer("awq", 4, 32),
    Writer("awq", 4, -1),
]
ONE = Writer("gptq", 4, 32)
writers = pytest.mark.parametrize("writer", WRITERS, ids=str)
TOKENS = tuple(range(40))


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose heads the kernels take; a part of a weight's inputs is never negative."""
    folder = save_folder(tmp_path_factory.mktemp("models") / "plain")
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(**SIZES)).to(torch.bfloat16)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight[::3, :32].abs_()
            layer.mlp.down_proj.weight[::5, 32:64].abs_().neg_()
    model.save_pretrained(folder)
    return folder


def reference(plain: Path, meant: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of the library's model in float32 with what the stored weights stand for: [T, V]."""
    model = LlamaForCausalLM.from_pretrained(plain, dtype=torch.float32)
    model.load_state_dict({name: weight.float() for name, weight in meant.items()}, strict=False)
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0]


def engine(folder: Path, dtype: str = "bfloat16", **options: Any) -> Engine:
    return engine_builder(
        EngineOptions(
            folder=folder,
            dtype=dtype,
            slots=4,
            rows=4,
            width=8,
            prefill_width=16,
            max_context_tokens=96,
            threads=1,
            park_bytes=0,
            **options,
        )
    )()


def logits_of(built: Engine, slot: int = 0) -> torch.Tensor:
    """Of all tokens, read in full rows: [T, V]."""
    parts = [Row(slot, start, TOKENS[start : start + 8]) for start in range(0, len(TOKENS), 8)]
    return torch.cat([built.runner.logits([part], 1)[0].float().clone() for part in parts])


def stored_layers(loaded: LoadedModel) -> dict[str, StoredLinear]:
    return {
        name: module
        for name, module in loaded.model.named_modules()
        if isinstance(module, StoredLinear)
    }


@writers
def test_layers_hold_what_was_written(plain_folder: Path, tmp_path: Path, writer: Writer) -> None:
    meant = save_stored(plain_folder, tmp_path / "model", writer)
    loaded = load_model(tmp_path / "model", "auto", CPU)
    layers = stored_layers(loaded)
    assert len(layers) == 14, "seven of each of two layers"
    for name, layer in layers.items():
        weight = layer.stored_weight().dequantized()
        torch.testing.assert_close(weight.double(), meant[f"{name}.weight"], rtol=1e-6, atol=0)


@writers
def test_the_kernels_integers_stand_for_the_same(
    plain_folder: Path, tmp_path: Path, writer: Writer
) -> None:
    meant = save_stored(plain_folder, tmp_path / "model", writer)
    for name, layer in stored_layers(load_model(tmp_path / "model", "auto", CPU)).items():
        weight = quantized_weight(layer)
        numbers = weight.numbers.double()
        if weight.codes is not None:
            numbers = weight.codes.double()[weight.numbers.long()]
        inputs = numbers.shape[1]
        scales, offsets = (
            torch.zeros(())
            if each is None
            else each.double().repeat_interleave(weight.group or inputs, dim=1)[:, :inputs]
            for each in (weight.scales, weight.offsets)
        )
        wanted = meant[f"{name}.weight"]
        error = (numbers * scales + offsets - wanted).abs()
        assert (error <= 2**-22 * (scales * 256)).all()
        assert (weight.offsets is None) == writer.symmetric


@needs_kernels
@writers
def test_a_stored_model_is_served_on_the_kernels(
    plain_folder: Path, tmp_path: Path, writer: Writer
) -> None:
    meant = save_stored(plain_folder, tmp_path / "model", writer)
    built = engine(tmp_path / "model")
    assert built.runner.kernel_note == ""
    assert built.audit.all_interchangeable, built.audit.findings
    assert built.describe().quantization == writer.method
    layers = recorded_model(built.loaded.model, (), silent).layers
    assert sum(layer.scales is not None for layer in layers) == 14
    for layer in stored_layers(built.loaded).values():
        assert not [*layer.parameters(), *layer.buffers()], "the originals are gone"
    wanted = reference(plain_folder, meant)
    assert (logits_of(built) - wanted).norm() < 0.04 * wanted.norm()


@needs_kernels
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("writer", [ONE, Writer("awq", 4, 64)], ids=str)
def test_a_stored_model_is_recorded_in_every_dtype(
    plain_folder: Path, tmp_path: Path, writer: Writer, dtype: str
) -> None:
    meant = save_stored(plain_folder, tmp_path / "model", writer)
    built = engine(tmp_path / "model", dtype)
    assert built.runner.kernel_note == ""
    wanted = reference(plain_folder, meant)
    assert (logits_of(built) - wanted).norm() < 0.04 * wanted.norm()


@pytest.mark.parametrize("options", [{"compile": "off"}, {"attention": "sdpa"}], ids=str)
@pytest.mark.parametrize("writer", [ONE, Writer("awq", 4, 64)], ids=str)
def test_the_plain_way_gives_the_librarys_logits(
    plain_folder: Path, tmp_path: Path, writer: Writer, options: dict[str, Any]
) -> None:
    meant = save_stored(plain_folder, tmp_path / "model", writer)
    built = engine(tmp_path / "model", "float32", **options)
    assert built.runner.kernel_note
    wanted = reference(plain_folder, meant)
    torch.testing.assert_close(logits_of(built), wanted, rtol=1e-3, atol=1e-3)


@needs_kernels
@pytest.mark.parametrize("writer", [Writer("gptq", 4, 32), Writer("awq", 4, 128)], ids=str)
def test_a_row_decides_the_same_alone_and_beside_others(
    plain_folder: Path, tmp_path: Path, writer: Writer
) -> None:
    save_stored(plain_folder, tmp_path / "model", writer)
    built = engine(tmp_path / "model")
    own = Row(0, 0, tuple(range(8)))
    others = [Row(slot, 0, tuple((slot * 13 + k) % 61 for k in range(8))) for slot in (1, 2, 3)]
    alone = built.runner.logits([own], 1)[0].clone()
    for size in (1, 2, 3):
        assert torch.equal(built.runner.logits([own, *others[:size]], 4)[0], alone)
        assert torch.equal(built.runner.logits([*others[:size], own], 4)[size], alone)
    for position in range(8):
        one = built.runner.logits([Row(2, position, (position,))], 1)[0]
        assert torch.equal(one[-1], alone[position])


def test_what_was_loaded_is_the_librarys_model_and_says_what_it_is(
    plain_folder: Path, tmp_path: Path
) -> None:
    save_stored(plain_folder, tmp_path / "model", ONE)
    plain, stored = (
        load_model(plain_folder, "auto", CPU),
        load_model(tmp_path / "model", "auto", CPU),
    )
    assert type(stored.model) is LlamaForCausalLM
    assert (stored.quantization, stored.architecture) == ("gptq", plain.architecture)
    assert stored.parameter_count == plain.parameter_count
    assert stored.model_fingerprint != plain.model_fingerprint
    assert stored.vocabulary_fingerprint == plain.vocabulary_fingerprint
    assert stored.model.dtype is torch.bfloat16


def test_one_number_makes_another_model(plain_folder: Path, tmp_path: Path) -> None:
    save_stored(plain_folder, tmp_path / "model", ONE)
    before = load_model(tmp_path / "model", "auto", CPU)
    scales = stored_layers(before)["model.layers.0.self_attn.q_proj"].scales.clone()
    scales[0, 0] *= 2
    change_tensors(tmp_path / "model", scales=scales)
    after = load_model(tmp_path / "model", "auto", CPU)
    assert after.model_fingerprint != before.model_fingerprint


def test_loading_tells_all_of_the_bytes(plain_folder: Path, tmp_path: Path) -> None:
    save_stored(plain_folder, tmp_path / "model", ONE)
    told: list[Report] = []
    loaded = load_model(tmp_path / "model", "auto", CPU, tell=told.append)
    model = loaded.model
    held = sum(each.nbytes for each in model.parameters())
    held += sum(
        each.nbytes
        for layer in stored_layers(loaded).values()
        for each in (layer.qweight, layer.qzeros, layer.scales)
    )
    assert told[-1].done == told[-1].total == held


def test_a_bias_that_only_the_checkpoint_has_is_added(plain_folder: Path, tmp_path: Path) -> None:
    """AutoGPTQ's layers have one always."""
    save_stored(plain_folder, tmp_path / "model", ONE)
    bias = torch.linspace(-1, 1, 128).half()
    change_tensors(tmp_path / "model", bias=bias)
    loaded = load_model(tmp_path / "model", "float32", CPU)
    layer = stored_layers(loaded)["model.layers.0.self_attn.q_proj"]
    torch.testing.assert_close(layer(torch.zeros(1, 128))[0], bias.float())


def test_no_tensor_of_a_layer_counts_as_left_over_by_code_of_the_folders_own(
    plain_folder: Path, tmp_path: Path
) -> None:
    save_stored(plain_folder, tmp_path / "model", ONE)
    own = {"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}
    edit_json(tmp_path / "model" / "config.json", auto_map=own)
    assert stored_layers(load_model(tmp_path / "model", "auto", CPU))
    change_tensors(tmp_path / "model", gate=torch.ones(3))
    with pytest.raises(ModelRefused, match=r"1 of its weights, .*q_proj\.gate for one"):
        load_model(tmp_path / "model", "auto", CPU)


def test_inputs_in_order_are_read_whatever_desc_act_says(
    plain_folder: Path, tmp_path: Path
) -> None:
    save_stored(plain_folder, tmp_path / "model", Writer("gptq", 4, -1))
    settings = Writer("gptq", 4, -1).settings | {"desc_act": True}
    edit_json(tmp_path / "model" / "config.json", quantization_config=settings)
    assert stored_layers(load_model(tmp_path / "model", "auto", CPU))


def out_of_order(folder: Path) -> None:
    change_tensors(folder, g_idx=(torch.arange(128) // 32).flip(0).to(torch.int32))


def setting(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        edit_json(folder / "config.json", quantization_config=ONE.settings | changes)

    return change


def without_order(folder: Path) -> None:
    setting(desc_act=True)(folder)
    change_tensors(folder, g_idx=None)


def tensor(**changes: torch.Tensor | None) -> Any:
    return lambda folder: change_tensors(folder, **changes)


UNREAD = {
    "out of order": (out_of_order, "q_proj are out of order .desc_act, act-order"),
    "3 bits": (setting(bits=3), "reads gptq of 4 or 8 bits only, not of 3"),
    "groups of 48": (setting(group_size=48), "groups of a multiple of 32 inputs only, not of 48"),
    "marlin": (setting(checkpoint_format="marlin"), "format gptq or gptq_v2 only, not marlin"),
    "int64": (setting(pack_dtype="int64"), "packed into int32 only"),
    "other groups": (setting(group_size=64), r"qzeros has the shape \[6, 16\], and \[3, 16\] by"),
    "no zeros": (tensor(qzeros=None), "lack .*q_proj.qzeros"),
    "scales alone": (tensor(qweight=None), "cannot tell what .*q_proj.* scales"),
    "whole scales": (
        tensor(scales=torch.ones(4, 128, dtype=torch.int32)),
        "q_proj.scales does not hold floating-point numbers",
    ),
    "numbers in floats": (
        tensor(qweight=torch.ones(16, 128)),
        "q_proj.qweight does not hold int32",
    ),
    "an order that it lacks": (
        without_order,
        "says desc_act, and its weight files lack .*q_proj.g_idx",
    ),
    "an order cut short": (
        tensor(g_idx=torch.arange(120, dtype=torch.int32) // 32),
        r"q_proj.g_idx has the shape \[120\], and \[128\] by",
    ),
}


@pytest.mark.parametrize(("change", "sentence"), UNREAD.values(), ids=UNREAD)
def test_what_is_not_read_here_says_why_beside_the_package_that_would(
    plain_folder: Path, tmp_path: Path, change: Any, sentence: str
) -> None:
    if quantizing.find_spec("optimum"):
        pytest.skip("optimum is installed")
    save_stored(plain_folder, tmp_path / "model", ONE)
    change(tmp_path / "model")
    with pytest.raises(
        ModelRefused, match=rf"quantized by gptq, .*optimum.*; .*{sentence}"
    ) as error:
        load_model(tmp_path / "model", "auto", CPU)
    assert "\n" not in str(error.value)


def test_awq_of_other_packings_is_left_to_the_library(plain_folder: Path, tmp_path: Path) -> None:
    save_stored(plain_folder, tmp_path / "model", Writer("awq", 4, 32))
    settings = Writer("awq", 4, 32).settings | {"version": "gemv"}
    edit_json(tmp_path / "model" / "config.json", quantization_config=settings)
    with pytest.raises(ModelRefused, match="reads awq in the format gemm only, not gemv"):
        load_model(tmp_path / "model", "auto", CPU)


def test_another_device_is_left_to_the_library(plain_folder: Path, tmp_path: Path) -> None:
    save_stored(plain_folder, tmp_path / "model", ONE)
    with pytest.raises(ModelRefused, match="reads it on CPUs only, not on meta"):
        load_model(tmp_path / "model", "auto", torch.device("meta"))


def test_a_layer_that_the_model_has_not_is_named(plain_folder: Path, tmp_path: Path) -> None:
    save_stored(plain_folder, tmp_path / "model", ONE)
    edit_json(tmp_path / "model" / "config.json", num_hidden_layers=1)
    with pytest.raises(ModelRefused, match=r"layers\.1\..* is quantized and no linear layer"):
        load_model(tmp_path / "model", "auto", CPU)


def test_it_is_not_quantized_again(plain_folder: Path, tmp_path: Path) -> None:
    save_stored(plain_folder, tmp_path / "model", ONE)
    with pytest.raises(ModelRefused, match=r"quantized already \(gptq\)"):
        load_model(tmp_path / "model", "auto", CPU, "int8")
