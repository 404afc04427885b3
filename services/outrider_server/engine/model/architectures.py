"""What the engine knows of single architectures of transformers: which are refused, and adapters.

Most models take their attention from the library's registry and need nothing here. A few older ones compute
it themselves, and derive biases or masks from the attention mask; an adapter puts `attention.py` in the place
of that computation. `docs/conformance.md` shows what was tested.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import torch
from torch import nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ...core.errors import ModelRefused
from ..attention.attention import NAME, SLOPES
from ..lengths import furthest_context
from .experts import run_experts_alike
from .own_code import check_own_code

SLIDING_SERVED = frozenset(
    {
        "gemma2",
        "gemma3_text",
        "mistral",
        "mixtral",
        "olmo3",
        "phi3",
        "qwen2",
        "qwen3",
        "starcoder2",
    }
)
"""Model types whose sliding windows were compared with the library's; they hand the window to attention."""
LAYERS_SERVED = frozenset({"full_attention", "sliding_attention"})


def check_architecture(config: PreTrainedConfig) -> None:
    """Raises ModelRefused with the reason for what the slot cache cannot serve, before weights are read."""
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused("it is an encoder-decoder; use a causal model")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelRefused(f"{config.model_type} is no causal language model of the library")
    if config.get_text_config() is not config:
        raise ModelRefused(f"{config.model_type} is no model of text alone; use one that is")
    model_class = cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    check_own_code(config, model_class)
    if getattr(model_class, "_is_stateful", False):
        raise ModelRefused(
            f"{config.model_type} has recurrent layers, whose state cannot be rolled back; "
            "use a model of attention layers"
        )
    unserved = set(getattr(config, "layer_types", None) or ()) - LAYERS_SERVED
    if unserved:
        raise ModelRefused(
            f"it has layers of kind {', '.join(sorted(unserved))}; "
            "the slot cache serves full and sliding attention only"
        )
    window = binding_window(config)
    if window is not None and config.model_type not in SLIDING_SERVED:
        raise ModelRefused(
            f"it attends to a sliding window of {window} tokens, "
            f"which was not verified for {config.model_type}"
        )
    if config.model_type not in ADAPTERS and not model_class._can_set_attn_implementation():
        raise ModelRefused(
            f"{config.model_type} does not take its attention from the library's registry"
        )


def binding_window(config: PreTrainedConfig) -> int | None:
    """The sliding window of some layer where it is shorter than the furthest context, else None."""
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    window = getattr(config, "sliding_window", None)
    if not window or "sliding_attention" not in kinds:
        return None
    longest = furthest_context(config) or window + 1
    return int(window) if window < longest else None


def cache_shape(config: PreTrainedConfig) -> tuple[int, int]:
    """Key heads and the dimension of a head, as a layer of the slot cache holds them."""
    count = KEY_HEADS.get(config.model_type)
    if count is None:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    else:
        heads = count(config)
    head_dim = getattr(config, "head_dim", None)
    return int(heads), int(head_dim or config.hidden_size // config.num_attention_heads)


def _key_heads_of_falcon(config: PreTrainedConfig) -> int:
    if config.multi_query and not config.new_decoder_architecture:
        return 1
    return int(config.num_kv_heads)


def _key_heads_of_gpt_bigcode(config: PreTrainedConfig) -> int:
    return 1 if config.multi_query else int(config.num_attention_heads)


KEY_HEADS: dict[str, Callable[[PreTrainedConfig], int]] = {
    "falcon": _key_heads_of_falcon,
    "gpt_bigcode": _key_heads_of_gpt_bigcode,
}
"""By model type: the key heads that a layer keeps, where the library's usual field does not say so."""


def attention_at_loading(config: PreTrainedConfig) -> str:
    """The attention to load the model with; adapted ones know of no registry until `adapt_model`."""
    return "eager" if config.model_type in ADAPTERS else NAME


def adapt_model(model: PreTrainedModel) -> None:
    """Makes the model run on the slot cache, in place. Again changes nothing."""
    run_experts_alike(model)
    adapt = ADAPTERS.get(model.config.model_type)
    if adapt is None or str(model.config._attn_implementation).startswith(NAME):
        return
    adapt(model)
    model.config._attn_implementation = NAME


def _attend(
    module: Any,
    cache: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """query, key, value [R, H or K, W, D] of one layer -> [R, W, H * D]."""
    layer = cache.layers[module.layer_idx]
    keys, values = layer.update(key, value)
    registry: Callable[[], AttentionInterface] = AttentionInterface
    attention: Callable[..., tuple[torch.Tensor, object]]
    attention = registry()[module.config._attn_implementation]
    mixed, _ = attention(module, query, keys, values, layer.places, scaling=scaling)
    return mixed.flatten(2)


def _no_bias(*_: object, **__: object) -> None:
    """Takes the place of a bias over all positions; attention makes its own from the slopes."""


def _replace(
    module: Any,
    config: PreTrainedConfig,
    forward: Callable[..., object],
    slopes: torch.Tensor | None,
) -> None:
    """Gives a module of the library another forward, and slopes [H] where it has biases."""
    module.config = config
    module.forward = MethodType(forward, module)
    if slopes is not None:
        module.register_buffer(SLOPES, slopes.float().contiguous(), persistent=False)


def _adapt_bloom(model: PreTrainedModel) -> None:
    base: Any = model.transformer
    ones = torch.ones((1, 2), dtype=torch.int64, device=model.device)
    slopes = base.build_alibi_tensor(ones, base.num_heads, torch.float32)[:, 0, 1]
    base.build_alibi_tensor = _no_bias
    for block in base.h:
        _replace(block.self_attention, model.config, _bloom_attention, slopes)
        block.mlp.gelu_impl = nn.GELU(approximate="tanh")  # the library's own has a gradient, too


def _bloom_attention(
    self: Any, hidden_states: torch.Tensor, residual: torch.Tensor, layer_past: Any, **_: object
) -> tuple[torch.Tensor, None]:
    query, key, value = self._reshape(self.query_key_value(hidden_states))
    mixed = _attend(self, layer_past, query, key, value, self.inv_norm_factor)
    return self.dense(mixed) + residual, None


def _adapt_mpt(model: PreTrainedModel) -> None:
    base: Any = model.transformer
    bias = base.build_mpt_alibi_tensor(base.num_heads, 2, device=model.device)
    base.build_mpt_alibi_tensor = _no_bias
    for block in base.blocks:
        _replace(block.attn, model.config, _mpt_attention, bias[:, 0, 1] - bias[:, 0, 0])


def _mpt_attention(
    self: Any,
    hidden_states: torch.Tensor,
    cache: Any = None,
    past_key_values: Any = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """The library's block gives the cache by one of two names, see `cache_argument`."""
    mixed = self.Wqkv(hidden_states)
    if self.clip_qkv:
        mixed = mixed.clamp(min=-self.clip_qkv, max=self.clip_qkv)
    split = mixed.unflatten(2, (3, self.n_heads, self.head_dim)).transpose(1, 3)
    query, key, value = split.unbind(2)
    return self.out_proj(
        _attend(
            self, past_key_values if cache is None else cache, query, key, value, self.softmax_scale
        )
    ), None


def _adapt_falcon(model: PreTrainedModel) -> None:
    base: Any = model.transformer
    library = sys.modules[type(model).__module__]
    ones = torch.ones((1, 2), dtype=torch.int64, device=model.device)
    slopes = library.build_alibi_tensor(ones, base.num_heads, torch.float32)[:, 0, 1]
    for block in base.h:
        attention = block.self_attention
        attention.rotate = None if base.use_alibi else library.apply_rotary_pos_emb
        own = slopes * attention.inv_norm_factor if base.use_alibi else None
        _replace(attention, model.config, _falcon_attention, own)
    base.use_alibi = False


def _falcon_attention(
    self: Any,
    hidden_states: torch.Tensor,
    layer_past: Any,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: object,
) -> tuple[torch.Tensor, None]:
    split = self._split_heads(self.query_key_value(hidden_states))
    query, key, value = (part.transpose(1, 2) for part in split)
    if self.new_decoder_architecture:  # the library repeats the heads of a group
        repeats = self.num_heads // self.num_kv_heads
        key, value = key[:, ::repeats], value[:, ::repeats]
    if self.rotate is not None:
        query, key = self.rotate(query, key, *position_embeddings)
    return self.dense(_attend(self, layer_past, query, key, value, self.inv_norm_factor)), None


ADAPTERS: dict[str, Callable[[PreTrainedModel], None]] = {
    "bloom": _adapt_bloom,
    "falcon": _adapt_falcon,
    "mpt": _adapt_mpt,
}
"""By model type: what puts a model that computes attention itself on the engine's."""
