"""The architectures of the suite: small random models of each, and what is refused with its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import transformers
from transformers import PreTrainedConfig

VOCABULARY = 128
POSITIONS = 256
WINDOW = 48
"""Shorter than the suite's prompts, so that it binds."""

SHARED: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "initializer_range": 0.15,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GATED: dict[str, object] = SHARED | {
    "intermediate_size": 96,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
MULTI_HEAD: dict[str, object] = GATED | {"num_key_value_heads": 4}
SLIDING: dict[str, object] = {"sliding_window": WINDOW}
CAPPED: dict[str, object] = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 30.0}
EXPERTS: dict[str, object] = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}


@dataclass(frozen=True, slots=True)
class Architecture:
    """A small configuration and what it stands for."""

    name: str
    traits: str
    make: Callable[[], PreTrainedConfig]

    @property
    def reference(self) -> str:
        """The library's attention to compare with: Falcon's plain one adds its linear biases twice."""
        return "sdpa" if getattr(self.make(), "alibi", False) else "eager"


def _served(name: str, traits: str, kind: str, *settings: dict[str, object]) -> Architecture:
    merged: dict[str, object] = {}
    for some in settings:
        merged |= some
    return Architecture(name, traits, lambda: getattr(transformers, f"{kind}Config")(**merged))


SERVED = (
    _served("Llama", "grouped-query", "Llama", GATED),
    _served(
        "Llama, multi-head", "multi-head, tied", "Llama", MULTI_HEAD, {"tie_word_embeddings": True}
    ),
    _served("Llama, multi-query", "multi-query", "Llama", GATED, {"num_key_value_heads": 1}),
    _served("Mistral", "grouped-query", "Mistral", GATED, {"sliding_window": None}),
    _served("Mistral, sliding", "grouped-query, window", "Mistral", GATED, SLIDING),
    _served("Qwen2", "grouped-query, biases, tied", "Qwen2", GATED, {"tie_word_embeddings": True}),
    _served(
        "Qwen2, sliding",
        "one layer full, one window",
        "Qwen2",
        GATED,
        SLIDING,
        {"use_sliding_window": True, "max_window_layers": 1},
    ),
    _served("Qwen3", "grouped-query, head norms", "Qwen3", GATED, {"head_dim": 32}),
    _served(
        "Qwen3, sliding",
        "one layer full, one window",
        "Qwen3",
        GATED,
        SLIDING,
        {"head_dim": 32, "use_sliding_window": True, "max_window_layers": 1},
    ),
    _served(
        "Gemma", "multi-query, tied", "Gemma", GATED, {"num_key_value_heads": 1, "head_dim": 32}
    ),
    _served("Gemma 2", "window, capped scores", "Gemma2", GATED, SLIDING, CAPPED, {"head_dim": 32}),
    _served(
        "Gemma 3",
        "window, head norms",
        "Gemma3Text",
        GATED,
        SLIDING,
        {"head_dim": 32, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    _served("Phi", "multi-head, parallel, biases", "Phi", MULTI_HEAD),
    _served("Phi-3", "grouped-query, fused projections", "Phi3", GATED),
    _served("Phi-3, sliding", "fused projections, window", "Phi3", GATED, SLIDING),
    _served("GPT-2", "multi-head, learned positions, tied", "GPT2", SHARED),
    _served("GPT-BigCode", "multi-query, learned positions, tied", "GPTBigCode", SHARED),
    _served(
        "GPT-BigCode, multi-head",
        "multi-head, learned positions, tied",
        "GPTBigCode",
        SHARED,
        {"multi_query": False},
    ),
    _served(
        "OPT",
        "multi-head, learned positions",
        "OPT",
        SHARED,
        {"ffn_dim": 96, "word_embed_proj_dim": 128, "init_std": 0.15},
    ),
    _served("GPT-NeoX", "multi-head, parallel", "GPTNeoX", SHARED, {"intermediate_size": 96}),
    _served("Bloom", "ALiBi, tied", "Bloom", SHARED),
    _served(
        "Bloom, 6 heads",
        "ALiBi, heads no power of two",
        "Bloom",
        SHARED,
        {"num_attention_heads": 6, "hidden_size": 96},
    ),
    _served("MPT", "ALiBi, tied", "Mpt", SHARED, {"max_seq_len": POSITIONS}),
    _served("Falcon", "multi-query, rotary", "Falcon", SHARED),
    _served(
        "Falcon, ALiBi",
        "multi-head, ALiBi",
        "Falcon",
        SHARED,
        {"alibi": True, "multi_query": False, "parallel_attn": False},
    ),
    _served(
        "Falcon, new decoder",
        "grouped-query, rotary",
        "Falcon",
        SHARED,
        {"new_decoder_architecture": True, "num_kv_heads": 2},
    ),
    _served("Mixtral", "4 experts, grouped-query", "Mixtral", GATED, {"num_local_experts": 4}),
    _served(
        "Mixtral, sliding", "4 experts, window", "Mixtral", GATED, SLIDING, {"num_local_experts": 4}
    ),
    _served(
        "Qwen2-MoE",
        "6 experts and a shared one",
        "Qwen2Moe",
        GATED,
        EXPERTS,
        {"num_experts": 6, "shared_expert_intermediate_size": 48},
    ),
    _served("OLMo", "multi-head, norms without weights", "Olmo", MULTI_HEAD),
    _served("OLMo 2", "grouped-query, head norms", "Olmo2", GATED),
    _served(
        "OLMo 3",
        "one layer full, one window, head norms",
        "Olmo3",
        GATED,
        SLIDING,
        {"layer_types": ["sliding_attention", "full_attention"]},
    ),
    _served("StableLM", "grouped-query, part rotary", "StableLm", GATED),
    _served("StarCoder 2", "grouped-query, window, tied", "Starcoder2", GATED, SLIDING),
)
TIED_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "tie_word_embeddings": True}
_WRITTEN_AS_THEY_ARE = (
    *("Llama", "Llama, multi-head", "Llama, multi-query", "Qwen2", "Qwen3", "Phi-3"),
    *("Phi-3, sliding", "GPT-2", "Bloom", "Falcon", "Falcon, new decoder", "StableLM"),
)
FROM_GGUF = (
    *(each for each in SERVED if each.name in _WRITTEN_AS_THEY_ARE),
    _served(
        "Gemma 2, tied",
        "window, capped scores",
        "Gemma2",
        GATED,
        SLIDING,
        CAPPED,
        TIED_GEMMA,
    ),
    _served(
        "Gemma 3, 6 layers",
        "window in five of six, head norms, tied",
        "Gemma3Text",
        GATED,
        SLIDING,
        TIED_GEMMA | {"num_hidden_layers": 6},
    ),
    _served(
        "StarCoder 2, full", "grouped-query, tied", "Starcoder2", GATED, {"sliding_window": None}
    ),
)
"""What files can say: their formats have heads, kinds of layers and windows as these models have them."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A configuration that is refused, and a part of the reason."""

    name: str
    reason: str
    settings: dict[str, object]


REFUSED = (
    Refused("T5", "encoder-decoder", {"model_type": "t5"}),
    Refused("BART", "encoder-decoder", {"model_type": "bart"}),
    Refused("Mamba", "recurrent layers", {"model_type": "mamba"}),
    Refused("RWKV", "recurrent layers", {"model_type": "rwkv"}),
    Refused("Jamba", "recurrent layers", {"model_type": "jamba"}),
    Refused("Qwen3-Next", "recurrent layers", {"model_type": "qwen3_next"}),
    Refused("RecurrentGemma", "recurrent layers", {"model_type": "recurrent_gemma"}),
    Refused("Llama 4", "chunked_attention", {"model_type": "llama4_text", "num_hidden_layers": 4}),
    Refused(
        "Cohere 2", "sliding window of", {"model_type": "cohere2", "max_position_embeddings": 8192}
    ),
    Refused(
        "Qwen2-MoE, sliding",
        "sliding window of",
        {"model_type": "qwen2_moe", "sliding_window": WINDOW, "use_sliding_window": True},
    ),
    Refused("GPT-Neo", "registry", {"model_type": "gpt_neo"}),
    Refused("CLIP", "no causal language model", {"model_type": "clip"}),
    Refused("an unknown type", "cannot be loaded", {"model_type": "nothing_known"}),
    Refused("Gemma 3, with images", "no model of text alone", {"model_type": "gemma3"}),
    Refused(
        "GPT-OSS",
        "experts like those of GptOssExperts",
        GATED
        | {
            "model_type": "gpt_oss",
            "num_local_experts": 4,
            "layer_types": ["full_attention"] * 2,
            "head_dim": 32,
        },
    ),
    Refused(
        "DeepSeek-V3",
        "key heads",
        MULTI_HEAD
        | {
            "model_type": "deepseek_v3",
            "first_k_dense_replace": 2,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 16,
            "v_head_dim": 16,
        },
    ),
    Refused(
        "DiffLlama",
        "its 2 layers attend 4 times",
        GATED | {"model_type": "diffllama", "head_dim": 32},
    ),
    Refused(
        "JetMoE",
        "groups tokens by expert in code of its own",
        {"model_type": "jetmoe", "num_hidden_layers": 2, "num_local_experts": 4},
    ),
    Refused("Doge", "does not run over the slot cache", GATED | {"model_type": "doge"}),
)
"""Refused by `config.json` alone, before any weight is read."""
