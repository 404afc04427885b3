"""A first step without weights: what a model asks of its experts, its attention and the cache.

The library's own class is built on torch's meta device, where tensors have shapes and no values, and reads a
few tokens over a slot cache there. So a model of any size is refused before its weights are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from ...core.errors import ModelRefused
from ..attention.attention import NAME, make_places
from ..cache import SlotCache
from ..cache_argument import cache_argument
from .architectures import adapt_model, attention_at_loading

TOKENS = 3
POSITIONS = 16
"""Unlike the tokens, so that a mask of another kind than the step's cannot fit by chance."""
META = torch.device("meta")
NO_VALUES = re.compile(r"\bmeta tensors?\b|'Meta' backend|\bmeta device\b")
"""How torch refuses to look at values of such tensors."""


class _OwnCalls(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts calls of the engine's own operators."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, operator: Any, types: object, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        self.count += operator.namespace == NAME
        return operator(*args, **(kwargs or {}))


def probe_step(config: PreTrainedConfig) -> dict[str, int]:
    """Runs the step; returns how many values each of the model's weights has, by its name.

    Raises ModelRefused with the reason why the engine cannot serve such a model.

    What looks at values cannot be run without them, and is left to the engine's first real step.
    """
    model = _build(deepcopy(config))
    values = {name: weight.numel() for name, weight in model.named_parameters()}
    try:
        attended, layers = _attended_layers(model)
    except ModelRefused:
        raise
    except Exception as error:
        if _misses_values(error):
            return values
        raise ModelRefused(
            f"{config.model_type} does not run over the slot cache ({_first_line(error)})"
        ) from error
    if attended != layers:
        raise ModelRefused(
            f"its {layers} layers attend {attended} times through the library's registry; "
            "once each is served"
        )
    return values


def _build(config: PreTrainedConfig) -> PreTrainedModel:
    """The library's model without values. Changes the configuration."""
    build: Callable[..., Any] = AutoModelForCausalLM.from_config
    try:
        with META:
            model: PreTrainedModel = build(
                config, attn_implementation=attention_at_loading(config)
            ).eval()
            return model
    except Exception as error:
        raise ModelRefused(
            f"{config.model_type} cannot be built from its configuration ({_first_line(error)})"
        ) from error


@torch.no_grad()
def _attended_layers(model: PreTrainedModel) -> tuple[int, int]:
    """How often layers attended over the slot cache, and how many there are. Adapts the model."""
    with META, _OwnCalls() as calls:
        adapt_model(model)
        cache = SlotCache(model.config, 1, POSITIONS, model.dtype, META)
        tokens = torch.zeros((1, TOKENS), dtype=torch.int64)
        places = make_places(tokens, tokens)
        cache.place(places)
        model(
            input_ids=tokens,
            position_ids=tokens,
            attention_mask=places,
            use_cache=True,
            **{cache_argument(model): cache},
        )
    return calls.count, len(cache.layers)


def _misses_values(error: Exception) -> bool:
    """Whether an operation looked at values, which torch's meta device has not."""
    refusals = (NotImplementedError, RuntimeError)  # what the device raises, and nothing derived
    return type(error) in refusals and NO_VALUES.search(str(error)) is not None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
