"""Public configurations, as far as sizes depend on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from outrider_server.engine.options import EngineOptions
from outrider_server.planning.config_file import read_config
from outrider_server.planning.counting import count_model
from outrider_server.planning.types import ModelSizes

MISTRAL_7B = {
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
GPT_3 = {
    "model_type": "gpt2",
    "n_embd": 12288,
    "n_layer": 96,
    "n_head": 96,
    "n_positions": 2048,
    "vocab_size": 50257,
}
BLOOM = {
    "model_type": "bloom",
    "hidden_size": 14336,
    "n_layer": 70,
    "n_head": 112,
    "vocab_size": 250880,
}
LLAMA_2_70B = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
}
FALCON_40B = {
    "model_type": "falcon",
    "hidden_size": 8192,
    "num_hidden_layers": 60,
    "num_attention_heads": 128,
    "num_kv_heads": 8,
    "new_decoder_architecture": True,
    "vocab_size": 65024,
    "bias": False,
    "parallel_attn": True,
}
MPT_30B = {
    "model_type": "mpt",
    "d_model": 7168,
    "n_layers": 48,
    "n_heads": 64,
    "vocab_size": 50432,
    "expansion_ratio": 4,
    "max_seq_len": 8192,
}
STARCODER = {
    "model_type": "gpt_bigcode",
    "n_embd": 6144,
    "n_inner": 24576,
    "n_layer": 40,
    "n_head": 48,
    "n_positions": 8192,
    "vocab_size": 49152,
    "multi_query": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
MIXTRAL = {
    "model_type": "mixtral",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
    "vocab_size": 100,
}


def options(**changes: Any) -> EngineOptions:
    """Those of a target's engine that parks nothing."""
    return EngineOptions(**({"folder": Path("unread"), "park_bytes": 0} | changes))


def write_config(folder: Path, content: dict[str, Any]) -> Path:
    """A folder with nothing but this config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def counted(folder: Path, content: dict[str, Any]) -> ModelSizes:
    """The sizes of the model that a configuration describes."""
    return count_model(read_config(write_config(folder, content)))
