"""What the engine's table of architectures names has a case in the suite."""

from __future__ import annotations

from collections.abc import Callable

from outrider_server.engine.model.architectures import (
    ADAPTERS,
    KEY_HEADS,
    SLIDING_SERVED,
    binding_window,
    cache_shape,
)
from transformers import PreTrainedConfig

from .architectures import SERVED
from .checks import PROMPT_TOKENS


def types_of(wanted: Callable[[PreTrainedConfig], bool]) -> set[str]:
    """Model types of the cases whose configuration is as wanted."""
    configs = [architecture.make() for architecture in SERVED]
    return {config.model_type for config in configs if wanted(config)}


def test_every_window_that_is_served_binds_in_some_case() -> None:
    assert types_of(
        lambda config: (binding_window(config) or PROMPT_TOKENS) < PROMPT_TOKENS
    ) == set(SLIDING_SERVED)


def test_every_adapter_has_a_case() -> None:
    assert types_of(lambda config: config.model_type in ADAPTERS) == set(ADAPTERS)


def test_key_heads_that_are_counted_specially_have_cases_of_one_head_and_of_several() -> None:
    for several in (False, True):
        assert types_of(
            lambda config, several=several: (
                config.model_type in KEY_HEADS and (cache_shape(config)[0] > 1) is several
            )
        ) == set(KEY_HEADS)
