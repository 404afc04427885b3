"""Which models can be shared out among ranks by the library's plan, and what of them a rank holds.

`docs/conformance.md` lists architectures; those named here were compared, over two ranks, with the library on
one.
"""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ...core.errors import ModelRefused
from ..model.architectures import cache_shape

SERVED = frozenset(
    {
        "gemma",
        "gemma2",
        "gemma3_text",
        "gpt_neox",
        "llama",
        "mistral",
        "mixtral",
        "olmo",
        "olmo2",
        "phi",
        "phi3",
        "qwen2",
        "qwen2_moe",
        "qwen3",
        "starcoder2",
    }
)
"""Model types whose logits over two ranks were compared with the library's on one."""
KEY_PROJECTIONS = ("k_proj", "qkv_proj", "query_key_value")
WHOLE_LOGITS = ("colwise_gather_output", "colwise_rep")
"""Styles of the output layer that give every rank the logits of the whole vocabulary."""


def check_shares(config: PreTrainedConfig, ranks: int) -> None:
    """Raises ModelRefused where the model cannot be shared out among so many ranks."""
    if ranks == 1:
        return
    kind = config.model_type
    if getattr(config, "quantization_config", None) is not None:
        raise ModelRefused("its weights are quantized, which several ranks cannot share; use one")
    if not _plan(config):
        raise ModelRefused(f"the library has no plan to share {kind} among ranks; use one")
    if kind not in SERVED:
        raise ModelRefused(f"sharing {kind} among ranks was not verified; use one")
    heads, keys = int(config.num_attention_heads), cache_shape(config)[0]
    if heads % ranks or (shares_keys(config) and keys % ranks):
        raise ModelRefused(
            f"its {heads} heads over {keys} key heads cannot be shared evenly by {ranks} ranks"
        )


def shares_keys(config: PreTrainedConfig) -> bool:
    """True where a rank holds its share of the key heads; False where the plan gathers them on each."""
    return any(
        name.rpartition(".")[2] in KEY_PROJECTIONS and style == "colwise"
        for name, style in _plan(config).items()
    )


def key_heads(config: PreTrainedConfig, ranks: int) -> int:
    """Key heads that a rank's cache holds."""
    heads, _ = cache_shape(config)
    return heads // ranks if ranks > 1 and shares_keys(config) else heads


def _plan(config: Any) -> dict[str, str]:
    """The library's plan of the layers; empty where there is none, or where it splits the logits."""
    plan: dict[str, str] = getattr(config, "base_model_tp_plan", None) or {}
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return {}
    model_plan = getattr(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], "_tp_plan", None) or {}
    return plan if model_plan.get("lm_head") in WHOLE_LOGITS else {}
