"""From what a GGUF file says of its model to the configuration that the library has for it.

Owns which architectures are served. One that is served has all that its file says understood: what it says
beside that would make it another model, and is refused by name. The library's own reader leaves out much of
it, the scaling of rotary embeddings and the size of heads among others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ...core.errors import ModelRefused
from .described import LONG, SHORT, Config, Described
from .files import GgufFiles
from .metadata import Metadata


def _llama(model: Described) -> Config:
    model.understand("expert_count", "expert_used_count")
    if model.says.number("expert_count", 0):
        model.refuse("it is a mixture of experts of the architecture llama")
    return model.common("llama") | {
        "head_dim": model.head_dim,
        "rms_norm_eps": model.rms(),
        "rope_parameters": model.rope(),
        "attention_bias": model.has("blk.0.attn_q.bias"),
        "mlp_bias": model.has("blk.0.ffn_up.bias"),
    }


def _qwen2(model: Described) -> Config:
    model.understand()
    return model.common("qwen2") | {
        "rms_norm_eps": model.rms(),
        "rope_parameters": model.rope(),
        "use_sliding_window": False,
    }


def _qwen3(model: Described) -> Config:
    model.understand()
    return model.common("qwen3") | {
        "head_dim": model.head_dim,
        "rms_norm_eps": model.rms(),
        "rope_parameters": model.rope(),
        "attention_bias": False,
        "use_sliding_window": False,
    }


def _gemma(model: Described, large: int) -> Config:
    """Of Gemma 2 and 3, whose largest has so many layers and divides scores otherwise."""
    size = model.hidden // model.heads if model.layers == large else model.head_dim
    return {
        "head_dim": model.head_dim,
        "rms_norm_eps": model.rms(),
        "query_pre_attn_scalar": size,
    }


def _gemma2(model: Described) -> Config:
    caps = ("attn_logit_softcapping", "final_logit_softcapping")
    model.understand("attention.sliding_window", *caps)
    attended, final = (model.says.real(cap) for cap in caps)
    return (
        model.common("gemma2")
        | _gemma(model, 46)
        | {
            "attn_logit_softcapping": attended,
            "final_logit_softcapping": final,
            "sliding_window": model.says.number("attention.sliding_window"),
            "rope_parameters": model.rope(),
        }
    )


def _gemma3(model: Described) -> Config:
    model.understand("attention.sliding_window", "final_logit_softcapping", "rope.freq_base_swa")
    final, window = "final_logit_softcapping", model.says.number("attention.sliding_window", 0)
    full = [number % 6 == 5 or not window for number in range(model.layers)]
    near = {"rope_type": "default", "rope_theta": model.says.real("rope.freq_base_swa", 10000.0)}
    return (
        model.common("gemma3_text")
        | _gemma(model, 62)
        | {
            "final_logit_softcapping": model.says.real(final) if model.says.has(final) else None,
            "sliding_window": window or None,
            "layer_types": ["full_attention" if each else "sliding_attention" for each in full],
            "rope_parameters": {"full_attention": model.rope(), "sliding_attention": near},
        }
    )


def _phi3(model: Described) -> Config:
    model.understand("attention.sliding_window", "rope.scaling.attn_factor")
    before = model.says.number(
        "rope.scaling.original_context_length", model.says.number("context_length")
    )
    rope = model.rope(partial=True) if not model.has(LONG) else _long_rope(model, before)
    return model.common("phi3") | {
        "rms_norm_eps": model.rms(),
        "rope_parameters": rope,
        "original_max_position_embeddings": before,
        "sliding_window": model.says.number("attention.sliding_window", 0) or None,
    }


def _long_rope(model: Described, before: int) -> Config:
    return {
        "rope_type": "longrope",
        "rope_theta": model.says.real("rope.freq_base", 10000.0),
        "partial_rotary_factor": model.rotary / model.head_dim,
        "long_factor": model.factors(LONG).tolist(),
        "short_factor": model.factors(SHORT).tolist(),
        "original_max_position_embeddings": before,
        "attention_factor": model.says.real("rope.scaling.attn_factor", 1.0),
    }


def _starcoder2(model: Described) -> Config:
    model.understand()
    return model.common("starcoder2") | {
        "norm_epsilon": model.norm(),
        "rope_parameters": model.rope(),
        "sliding_window": None,
        "use_bias": model.has("blk.0.attn_q.bias"),
    }


def _stablelm(model: Described) -> Config:
    model.understand("use_parallel_residual")
    if model.has("blk.0.attn_q_norm.weight"):
        model.refuse("it normalizes the heads of its queries")
    return model.common("stablelm") | {
        "layer_norm_eps": model.norm(),
        "rope_parameters": model.rope(partial=True),
        "use_qkv_bias": model.has("blk.0.attn_q.bias"),
        "use_parallel_residual": not model.has("blk.0.ffn_norm.weight"),
    }


def _falcon(model: Described) -> Config:
    model.understand("tensor_data_layout")
    several = model.key_heads > 1
    return model.general("falcon") | {
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_kv_heads": model.key_heads,
        "max_position_embeddings": model.says.number("context_length"),
        "ffn_hidden_size": model.says.number("feed_forward_length"),
        "layer_norm_epsilon": model.norm(),
        "rope_parameters": model.rope(),
        "alibi": False,
        "bias": model.has("blk.0.attn_qkv.bias"),
        "multi_query": not several,
        "parallel_attn": True,
        "new_decoder_architecture": several,
        "num_ln_in_parallel_attn": 2 if model.has("blk.0.attn_norm_2.weight") else 1,
    }


def _bloom(model: Described) -> Config:
    model.understand()
    return model.general("bloom") | {
        "hidden_size": model.hidden,
        "n_layer": model.layers,
        "n_head": model.heads,
        "layer_norm_epsilon": model.norm(),
        "max_position_embeddings": model.says.number("context_length"),
    }


def _gpt2(model: Described) -> Config:
    model.understand()
    return model.general("gpt2") | {
        "n_positions": model.says.number("context_length"),
        "n_embd": model.hidden,
        "n_layer": model.layers,
        "n_head": model.heads,
        "n_inner": model.says.number("feed_forward_length"),
        "layer_norm_epsilon": model.norm(),
    }


SERVED: Mapping[str, Callable[[Described], Config]] = MappingProxyType(
    {
        "llama": _llama,
        "qwen2": _qwen2,
        "qwen3": _qwen3,
        "gemma2": _gemma2,
        "gemma3": _gemma3,
        "phi3": _phi3,
        "starcoder2": _starcoder2,
        "stablelm": _stablelm,
        "falcon": _falcon,
        "bloom": _bloom,
        "gpt2": _gpt2,
    }
)
"""By the architecture's name in a file."""


def read_configuration(files: GgufFiles) -> Config:
    """What the file's config.json would say. Raises ModelRefused for what is not served."""
    architecture = Metadata(files.path, files.metadata).architecture
    make = SERVED.get(architecture)
    if make is None:
        raise ModelRefused(
            f"{files.path} is of the architecture {architecture!r:.80}, which is not served from GGUF; "
            f"{', '.join(SERVED)} are"
        )
    return make(Described(files))
