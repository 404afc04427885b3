"""Parameters and cached values, against published figures and against real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.cache_argument import cache_argument
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER
from outrider_server.planning.config_file import read_config
from outrider_server.planning.counting import count_model
from outrider_server.planning.memory import token_bytes
from outrider_server.planning.types import WeightBytes
from outrider_server.planning.weights import read_bytes, weight_bytes
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from .configs import (
    BLOOM,
    FALCON_40B,
    GPT_3,
    LLAMA_2_70B,
    MISTRAL_7B,
    MIXTRAL,
    MPT_30B,
    STARCODER,
    counted,
)

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100}


def test_mistral_7b_has_its_published_parameters_and_bytes(tmp_path: Path) -> None:
    sizes = counted(tmp_path, MISTRAL_7B)
    assert sizes.parameters == 7_241_732_096
    in_bfloat16 = weight_bytes(sizes, "bfloat16", "none")
    assert in_bfloat16.kept_bytes == 2 * 7_241_732_096
    assert round(in_bfloat16.total_bytes / 2**30, 2) == 13.49
    assert round(in_bfloat16.total_bytes / 1e9, 2) == 14.48


def test_what_stays_in_16_bit_is_counted_in_8_bit(tmp_path: Path) -> None:
    """Embedding, output layer and norms stay; each output of the 7 matrices of a layer has a scale."""
    stays = 2 * (2 * 32000 * 4096 + (2 * 32 + 1) * 4096)
    matrices = 7_241_732_096 - stays // 2
    scales = 4 * 32 * (4096 + 1024 + 1024 + 4096 + 14336 + 14336 + 4096)
    found = weight_bytes(counted(tmp_path, MISTRAL_7B), "bfloat16", "int8")
    assert found == WeightBytes(matrices, scales, stays, found.buffer_bytes)
    assert found.buffer_bytes == 2 * 64 * 4  # rotary frequencies in use and as they were


def test_four_bits_are_half_a_byte_and_a_scale_for_64_values(tmp_path: Path) -> None:
    found = weight_bytes(counted(tmp_path, MISTRAL_7B), "bfloat16", "nf4")
    matrices = 7_241_732_096 - found.kept_bytes // 2
    assert found.quantized_bytes == matrices // 2
    assert found.scale_bytes == 4 * matrices // 64 + 7 * 32 * 64


@pytest.mark.parametrize(
    ("content", "gigabytes", "digits"),
    [
        (GPT_3, 350, 2),
        (BLOOM, 352, 3),
        (LLAMA_2_70B, 140, 2),
        (FALCON_40B, 80, 1),
        (MPT_30B, 60, 1),
        (STARCODER, 31, 2),
    ],
)
def test_the_published_weights_hold_at_their_own_rounding(
    content: dict[str, Any], gigabytes: int, digits: int, tmp_path: Path
) -> None:
    """In 16 bit, rounded to as many digits as the list of published figures gives."""
    kept = weight_bytes(counted(tmp_path, content), "bfloat16", "none").kept_bytes
    assert float(f"{kept / 1e9:.{digits}g}") == gigabytes


def test_the_cache_of_16000_tokens_has_the_published_values(tmp_path: Path) -> None:
    plain = counted(tmp_path / "a", STARCODER | {"multi_query": False, "n_positions": 16384})
    values = 16_000 * token_bytes(plain, "bfloat16") // 2
    assert values == 7_864_320_000
    shared = counted(tmp_path / "b", STARCODER)
    assert 16_000 * token_bytes(shared, "bfloat16") == 327_680_000 < 400e6


@pytest.mark.parametrize("folder", [TARGET_FOLDER, DRAFT_FOLDER])
def test_the_bundled_models_have_the_values_of_their_files(folder: Path) -> None:
    sizes = count_model(read_config(folder))
    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert sizes.parameters == sum(tensor.numel() for tensor in stored.values())
    assert {tensor.name: tensor.count for tensor in sizes.tensors} == {
        name: tensor.numel() for name, tensor in stored.items()
    }
    assert sizes.dtype == "bfloat16"


@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "llama", **SMALL, "num_key_value_heads": 2, "intermediate_size": 96},
        {"model_type": "llama", **SMALL, "tie_word_embeddings": True, "head_dim": 32},
        {"model_type": "gpt2", "n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 100},
        {"model_type": "opt", **SMALL, "ffn_dim": 96, "word_embed_proj_dim": 32},
        {"model_type": "gpt_neox", **SMALL, "intermediate_size": 96},
        {"model_type": "bloom", **SMALL},
        {"model_type": "mpt", "d_model": 64, "n_heads": 4, "n_layers": 2, "vocab_size": 100},
        {"model_type": "falcon", **SMALL, "multi_query": True},
        {"model_type": "falcon", **SMALL, "new_decoder_architecture": True, "num_kv_heads": 2},
        {"model_type": "gemma", **SMALL, "num_key_value_heads": 1, "head_dim": 16},
        {"model_type": "qwen3", **SMALL, "num_key_value_heads": 2, "head_dim": 32},
        {"model_type": "phi", **SMALL, "intermediate_size": 96},
        MIXTRAL,
    ],
    ids=lambda content: content["model_type"],
)
def test_a_real_model_has_the_counted_parameters_and_caches_the_counted_values(
    content: dict[str, Any], tmp_path: Path
) -> None:
    sizes = counted(tmp_path, content)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).eval()
    assert sizes.parameters == model.num_parameters()
    distinct = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}
    buffers = sum(buffer.numel() for _, buffer in persistent_buffers(model))
    assert sizes.parameters + buffers == sum(distinct.values())
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.arange(3)[None], use_cache=True, **{cache_argument(model): cache})
    written = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert 3 * token_bytes(sizes, "float32") == 4 * written


def persistent_buffers(model: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Buffers that are part of the state dict."""
    saved = set(model.state_dict())
    return [(name, buffer) for name, buffer in model.named_buffers() if name in saved]


def test_a_looked_up_embedding_is_not_read_and_a_tied_one_is(tmp_path: Path) -> None:
    llama = {"model_type": "llama", **SMALL, "intermediate_size": 96}
    apart = counted(tmp_path / "a", llama | {"tie_word_embeddings": False})
    tied = counted(tmp_path / "b", llama | {"tie_word_embeddings": True})
    assert read_bytes(apart, "bfloat16", "none") == 2 * (apart.parameters - 100 * 64)
    assert read_bytes(tied, "bfloat16", "none") == 2 * tied.parameters
    assert read_bytes(apart, "bfloat16", "none") == read_bytes(tied, "bfloat16", "none")


def test_what_the_library_keeps_in_float32_counts_four_bytes(tmp_path: Path) -> None:
    sizes = counted(tmp_path, {"model_type": "gpt_oss", "num_hidden_layers": 1})
    norms = sum(tensor.count for tensor in sizes.tensors if "norm" in tensor.name)
    assert norms > 0
    in_bfloat16 = weight_bytes(sizes, "bfloat16", "none").kept_bytes
    assert weight_bytes(sizes, "float16", "none").kept_bytes == in_bfloat16 + 2 * norms


@pytest.mark.parametrize("kind", ["mamba", "recurrent_gemma", "falcon_h1"])
def test_a_model_with_another_state_than_keys_and_values_is_refused(
    kind: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelRefused, match="the slot cache"):
        counted(tmp_path, {"model_type": kind, "num_hidden_layers": 2})


def test_a_window_is_planned_as_full_attention_and_said(tmp_path: Path) -> None:
    (note,) = counted(tmp_path, MISTRAL_7B).notes
    assert note.startswith("attends to a window")
    assert counted(tmp_path, MISTRAL_7B | {"sliding_window": None}).notes == ()


def test_what_a_service_would_refuse_is_planned_and_said(tmp_path: Path) -> None:
    content = {"model_type": "cohere2", "num_hidden_layers": 4, "torch_dtype": "bfloat16"}
    window, refusal = counted(tmp_path, content).notes
    assert window.startswith("attends to a window")
    assert refusal.startswith("a service refuses it: ")
    assert "not verified for cohere2" in refusal


def test_the_longest_context_is_found_under_either_name(tmp_path: Path) -> None:
    assert counted(tmp_path, MPT_30B).max_positions == 8192


def test_a_checkpoint_quantized_already_takes_what_its_files_take(tmp_path: Path) -> None:
    content = MISTRAL_7B | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    alone = counted(tmp_path, content)
    assert any("quantized by gptq" in note for note in alone.notes)
    assert weight_bytes(alone, "bfloat16", "none").kept_bytes == 2 * alone.parameters
    (tmp_path / "model.safetensors").write_bytes(bytes(4321))
    with_files = counted(tmp_path, content)
    found = weight_bytes(with_files, "bfloat16", "none")
    assert found.total_bytes == 4321 + with_files.buffer_bytes
    assert read_bytes(with_files, "bfloat16", "none") == 4321
