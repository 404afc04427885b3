"""Models of GGUF files: the same as from a folder, their integers on the kernels as they are, and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import Form, write_model
from models_for_tests import llama_config, tiny_llama
from outrider_server.engine.model.loading import load_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaForCausalLM,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
    Starcoder2Config,
)

CPU = torch.device("cpu")
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GATED = SMALL | {"num_key_value_heads": 1, "intermediate_size": 96, "tie_word_embeddings": False}
HEADS = {
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 24,
    "tie_word_embeddings": True,
}
NEAR_AND_FAR = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "long_factor": [1.0 + number / 4 for number in range(16)],
    "short_factor": [1.0 + number / 16 for number in range(16)],
    "original_max_position_embeddings": 32,
    "attention_factor": 1.2,
}
MODELS: dict[str, PreTrainedConfig] = {
    "Llama": llama_config(hidden_size=64, intermediate_size=96),
    "Llama, larger heads": llama_config(head_dim=32),
    "Llama 3": llama_config(rope_parameters=LLAMA_3),
    "Llama, tied": llama_config(tie_word_embeddings=True, num_key_value_heads=4),
    "Qwen2": Qwen2Config(**GATED | {"tie_word_embeddings": True}),
    "Qwen2, YaRN": Qwen2Config(**GATED, rope_parameters=YARN),
    "Qwen3": Qwen3Config(**GATED, head_dim=64),
    "Gemma 2": Gemma2Config(
        **GATED | HEADS, attn_logit_softcapping=2.0, final_logit_softcapping=30.0
    ),
    "Gemma 3": Gemma3TextConfig(
        **GATED | HEADS | {"num_hidden_layers": 6}, rope_parameters=NEAR_AND_FAR
    ),
    "Phi-3": Phi3Config(**GATED, original_max_position_embeddings=256),
    "Phi-3, long": Phi3Config(
        **GATED, rope_parameters=LONG, original_max_position_embeddings=32, sliding_window=48
    ),
    "StarCoder 2": Starcoder2Config(**GATED | {"tie_word_embeddings": True}, sliding_window=None),
    "StableLM": StableLmConfig(**GATED),
    "StableLM, biases": StableLmConfig(**GATED, use_qkv_bias=True, use_parallel_residual=True),
    "Falcon": FalconConfig(**SMALL, tie_word_embeddings=True),
    "Falcon, new decoder": FalconConfig(
        **SMALL | {"num_attention_heads": 4}, new_decoder_architecture=True, num_kv_heads=2
    ),
    "Bloom": BloomConfig(**SMALL),
    "GPT-2": GPT2Config(**SMALL),
}
TOKENS = tuple(7 * number % 61 for number in range(40))


def model_of(config: PreTrainedConfig) -> Any:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.1)
    return model


def logits_of(model: Any) -> torch.Tensor:
    """Of all tokens by the library, [T, V]."""
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_the_one_that_was_written(tmp_path: Path, name: str) -> None:
    """Weights and configuration: the library computes the same of what was read."""
    model = model_of(MODELS[name])
    loaded = load_model(write_model(model, tmp_path / "model.gguf"), "auto", CPU)
    assert loaded.dtype is torch.float32
    assert loaded.max_positions in (256, 0)
    read: Any = loaded.model
    read.set_attn_implementation("eager")
    torch.testing.assert_close(logits_of(read), logits_of(model), rtol=0, atol=1e-5)


def llama(**changes: Any) -> LlamaForCausalLM:
    """A Llama whose rows hold whole blocks of 256."""
    sizes = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2}
    return tiny_llama(intermediate_size=512, initializer_range=0.1, **(sizes | changes))


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q5_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_what_the_kernels_do_not_take_is_widened(tmp_path: Path, kind: str) -> None:
    """To what the package gguf makes of it, in the dtype that is asked for, or the file's own."""
    from gguf import GGUFReader
    from gguf.quants import dequantize

    path = write_model(llama(), tmp_path / "model.gguf", Form(layers=kind, others=kind))
    loaded = load_model(path, "float32", CPU)
    (held,) = (each for each in GGUFReader(path).tensors if each.name == "blk.1.ffn_down.weight")
    wanted = torch.from_numpy(dequantize(held.data, held.tensor_type).copy())
    assert torch.equal(loaded.model.get_parameter("model.layers.1.mlp.down_proj.weight"), wanted)
    own = {"F16": torch.float16}.get(kind, torch.bfloat16)
    again = load_model(path, "auto", CPU)
    assert (again.dtype, again.quantization) == (own, "")
    assert torch.equal(
        again.model.get_parameter("model.layers.1.mlp.down_proj.weight"), wanted.to(own)
    )
