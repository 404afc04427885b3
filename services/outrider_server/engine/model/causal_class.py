"""The library's class of a causal language model, by its configuration."""

from __future__ import annotations

from typing import cast

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING


def causal_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Raises KeyError for what is none."""
    # The library declares every entry a tuple, and most are one class.
    found = cast(
        "type[PreTrainedModel] | tuple[type[PreTrainedModel], ...]",
        MODEL_FOR_CAUSAL_LM_MAPPING[type(config)],
    )
    return found[0] if isinstance(found, (list, tuple)) else found
