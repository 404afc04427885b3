"""The bytes of quantized weights, against what bitsandbytes holds after loading on this machine's CPU."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import needs_kernels, save_tokenizer, tiny_limits
from outrider_server.engine.model.loading import load_model
from outrider_server.engine.step import StepRunner
from outrider_server.planning.weights import packing_bytes, weight_bytes
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


def test_experts_in_one_tensor_stay_as_they_are(tmp_path: Path) -> None:
    sizes = counted(tmp_path, MIXTRAL)
    experts = sum(tensor.count for tensor in sizes.tensors if ".experts." in tensor.name)
    assert experts > sizes.parameters / 2
    assert weight_bytes(sizes, "bfloat16", "int8").kept_bytes > 2 * experts
