"""The bytes of quantized weights, against what bitsandbytes holds after loading on this machine's CPU."""

from __future__ import annotations

import importlib.util
import json
import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import write_model
from models_for_tests import needs_kernels, save_tokenizer, tiny_limits, tiny_llama
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.model.loading import load_model
from outrider_server.engine.options import EngineOptions
from outrider_server.engine.step import StepRunner
from outrider_server.planning.config_file import read_config
from outrider_server.planning.counting import count_model
from outrider_server.planning.memory import SPREAD_BYTES, plan_memory, workspace_bytes
from outrider_server.planning.plan import make_plan
from outrider_server.planning.settings import PlanSettings
from outrider_server.planning.shape import engine_shape
from outrider_server.planning.types import LinearLayer, StoredLayer, sizes_from
from outrider_server.planning.weights import packing_bytes, weight_bytes
from stored_checkpoints import Writer, save_stored
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
from transformers.utils import logging as library_logging

from .configs import MIXTRAL, counted
from .measured import held_by

needs_bitsandbytes = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("bitsandbytes", "accelerate")),
    reason="bitsandbytes or accelerate is not installed",
)

LLAMA = {
    "model_type": "llama",
    "hidden_size": 72,
    "intermediate_size": 152,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
}
GPT_2 = {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100}
OPT = {
    "model_type": "opt",
    "hidden_size": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "word_embed_proj_dim": 32,
    "vocab_size": 100,
}
SETTINGS = {
    "int8": {"load_in_8bit": True},
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "fp4": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
}


def held_bytes(model: torch.nn.Module) -> int:
    """Bytes of every tensor of the model, with the scales and tables that quantized ones carry."""
    tensors = {}
    for tensor in (*model.parameters(), *model.buffers()):
        held = [tensor, getattr(tensor, "SCB", None)]
        state = getattr(tensor, "quant_state", None)
        if state is not None:
            held += [state.absmax, state.code]
        tensors |= {id(entry): entry for entry in held if entry is not None}
    return sum(entry.nbytes for entry in tensors.values())


@needs_bitsandbytes
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantization", SETTINGS)
@pytest.mark.parametrize(
    "content",
    [LLAMA, LLAMA | {"tie_word_embeddings": True}, GPT_2, OPT, MIXTRAL],
    ids=["llama", "llama-tied", "gpt2", "opt", "mixtral"],
)
def test_a_loaded_model_holds_the_planned_bytes(
    content: dict[str, Any], quantization: str, tmp_path: Path
) -> None:
    sizes = counted(tmp_path, content)
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tmp_path)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path,
        dtype=torch.bfloat16,
        quantization_config=BitsAndBytesConfig(**SETTINGS[quantization]),
        device_map={"": "cpu"},
    )
    assert weight_bytes(sizes, "bfloat16", quantization).total_bytes == held_bytes(model)


@needs_bitsandbytes
@needs_kernels
@pytest.mark.parametrize("quantization", SETTINGS)
def test_quantized_layers_on_the_kernels_have_the_planned_bytes(
    quantization: str, tmp_path: Path
) -> None:
    """With sizes that are no multiple of a tile, and an output layer that is not quantized."""
    content = LLAMA | {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32}
    sizes = counted(tmp_path, content)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(tmp_path)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, 100)
    given = load_model(tmp_path, "auto", torch.device("cpu"), quantization)
    runner = StepRunner(given, tiny_limits(), "auto")
    assert runner.layout.packed, runner.kernel_note
    planned = weight_bytes(sizes, "bfloat16", quantization).total_bytes
    assert planned + packing_bytes(sizes, "bfloat16", quantization) == held_by(runner, given.model)


def saved(writer: Writer, folder: Path) -> Path:
    """A checkpoint so quantized, of sizes that are no multiple of a tile."""
    plain = folder / "plain"
    plain.mkdir()
    counted(plain, LLAMA | {"hidden_size": 128, "intermediate_size": 192, "head_dim": 32})
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(plain)
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(plain)
    save_tokenizer(plain, 100)
    save_stored(plain, folder / "model", writer)
    return folder / "model"


@needs_kernels
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    "writer",
    [
        Writer("gptq", 4, 128, symmetric=True),
        Writer("gptq", 4, 96),
        Writer("gptq", 8, 32),
        Writer("awq", 4, 64),
        Writer("awq", 4, -1),
    ],
    ids=str,
)
@pytest.mark.parametrize("compile_mode", ["auto", "off"])
def test_a_stored_checkpoint_has_the_planned_bytes(
    writer: Writer, dtype: str, compile_mode: Any, tmp_path: Path
) -> None:
    folder = saved(writer, tmp_path)
    options = EngineOptions(folder=folder, dtype=dtype, max_context_tokens=64, compile=compile_mode)
    sizes = count_model(read_config(folder))
    shape = engine_shape(sizes, options)
    given = load_model(folder, dtype, torch.device("cpu"))
    runner = StepRunner(given, tiny_limits(), compile_mode)
    assert shape.packed == runner.layout.packed == (compile_mode == "auto")
    planned = plan_memory(sizes, shape)
    held = held_by(runner, given.model)
    assert planned.weights.total_bytes + planned.kernel_bytes == held


def test_what_is_counted_of_a_stored_checkpoint_can_be_kept(tmp_path: Path) -> None:
    sizes = count_model(read_config(saved(Writer("gptq", 4, 32), tmp_path)))
    assert sizes.read_here
    assert sizes_from(json.loads(json.dumps(asdict(sizes)))) == sizes


def test_what_a_service_would_not_quantize_is_not_planned_so(tmp_path: Path) -> None:
    """In the words of the service: `plan` says what a start would."""
    stored = saved(Writer("gptq", 4, 32), tmp_path)
    file = write_model(tiny_llama(), tmp_path / "tiny.gguf")
    for source in (stored, file):
        options = EngineOptions(folder=source, quantization="int8", max_context_tokens=64)
        with pytest.raises(ModelRefused) as planned:
            make_plan(PlanSettings(target=options))
        with pytest.raises(ModelRefused) as loaded:
            load_model(source, "auto", torch.device("cpu"), quantization="int8")
        assert str(planned.value) == str(loaded.value)
        assert "leave the quantization out" in str(planned.value)


def test_a_stored_checkpoint_the_plain_way_spreads_its_largest_layer_out(tmp_path: Path) -> None:
    layer = LinearLayer(4096, 16384, False, True, stored=StoredLayer(1, 1))
    sizes = replace(counted(tmp_path, LLAMA), linears=(layer,), max_positions=64)
    shape = engine_shape(sizes, EngineOptions(folder=tmp_path, dtype="float32", compile="off"))
    assert workspace_bytes(sizes, shape) == 4096 * 16384 * SPREAD_BYTES


def test_experts_in_one_tensor_stay_as_they_are(tmp_path: Path) -> None:
    sizes = counted(tmp_path, MIXTRAL)
    experts = sum(tensor.count for tensor in sizes.tensors if ".experts." in tensor.name)
    assert experts > sizes.parameters / 2
    assert weight_bytes(sizes, "bfloat16", "int8").kept_bytes > 2 * experts
