"""Folders that bring code of their own (`auto_map`), of which nothing is ever executed.

Many are of a time before the library had their model, and it serves them as well. Whether it has is decided
here by what the folder says: the name of its class, and weights that the library's class has no use for.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from transformers import PreTrainedConfig, PreTrainedModel

from ...core.errors import ModelRefused

SETTINGS_OF_MPT = {
    "alibi": True,
    "logit_scale": False,
    "prefix_lm": False,
    "qk_ln": False,
    "rope": False,
}
"""What the library's MPT computes, whatever the configuration says: the code of its makers has more."""


def own_class(config: PreTrainedConfig) -> str:
    """The causal model's class in the folder's own code; empty where it names none."""
    named = getattr(config, "auto_map", None)
    path = named.get("AutoModelForCausalLM") if isinstance(named, dict) else None
    return str(path or "").rpartition(".")[2]


def check_own_code(config: PreTrainedConfig, model_class: type[PreTrainedModel]) -> None:
    """Raises ModelRefused where the library's class is not that of the folder's code."""
    own = own_class(config)
    if own and own.casefold() != model_class.__name__.casefold():
        raise ModelRefused(
            f"it wants to run code of its own ({own}, by auto_map in config.json), and the library's "
            f"{config.model_type} is {model_class.__name__}; use a model that the library implements"
        )
    if config.model_type == "mpt":
        for name, served in SETTINGS_OF_MPT.items():
            wanted = getattr(config.attn_config, name, getattr(config, name, served)) or False
            if wanted != served:
                raise ModelRefused(
                    f"it wants {name} {json.dumps(wanted)}, which the library's mpt leaves out; "
                    "use a model that the library implements"
                )


def check_left_over(config: PreTrainedConfig, unused: Collection[str]) -> None:
    """Raises ModelRefused where weights of the folder's own code are left over: it does something else."""
    if unused and own_class(config):
        first = min(unused)
        raise ModelRefused(
            f"it wants to run code of its own (auto_map in config.json): {len(unused)} of its weights, "
            f"{first} for one, have no place in the library's {config.model_type}; "
            "use a model that the library implements"
        )
