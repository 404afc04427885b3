"""What the engine knows of single architectures, beyond what tests/conformance runs."""

from __future__ import annotations

import pytest
import torch
from models_for_tests import loaded, tiny_limits
from outrider_server.engine.layout import Row
from outrider_server.engine.model.architectures import adapt_model, binding_window, cache_shape
from outrider_server.engine.step import StepRunner
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    MistralConfig,
    MptConfig,
    PreTrainedConfig,
    Qwen2Config,
)

TOKENS = tuple((17 * index + 3) % 61 for index in range(40))
SMALL = {"vocab_size": 61, "hidden_size": 32, "n_head": 4, "n_layer": 2, "initializer_range": 0.3}


@torch.no_grad()
def test_clipped_projections_and_a_scale_of_its_own_are_mpts() -> None:
    torch.manual_seed(5)
    config = MptConfig(
        vocab_size=61,
        d_model=32,
        n_heads=4,
        n_layers=2,
        max_seq_len=96,
        initializer_range=0.3,
        attn_config={"clip_qkv": 0.4, "softmax_scale": 0.9},
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    wanted = model(torch.tensor([TOKENS])).logits[0]
    runner = StepRunner(loaded(model), tiny_limits(), "off")
    runner.prefill(Row(0, 0, TOKENS[:16]))
    runner.prefill(Row(0, 16, TOKENS[16:32]))
    got = runner.logits([Row(0, 32, TOKENS[32:])], 1)[0]
    torch.testing.assert_close(got, wanted[32:], rtol=1e-4, atol=1e-4)


def test_an_adapted_model_is_adapted_once() -> None:
    model = AutoModelForCausalLM.from_config(BloomConfig(**SMALL))
    adapt_model(model)
    slopes = model.transformer.h[0].self_attention.alibi_slopes
    adapt_model(model)
    assert model.transformer.h[0].self_attention.alibi_slopes is slopes
    assert slopes.tolist() == [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8], "by the paper, section 3"


@pytest.mark.parametrize(
    ("settings", "heads"),
    [
        ({}, 1),
        ({"multi_query": False}, 8),
        ({"new_decoder_architecture": True, "num_kv_heads": 2}, 2),
    ],
)
def test_a_cache_holds_the_key_heads_that_falcon_has(settings: dict[str, int], heads: int) -> None:
    config = FalconConfig(hidden_size=64, num_attention_heads=8, **settings)
    assert cache_shape(config) == (heads, 8)


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (MistralConfig(sliding_window=16, max_position_embeddings=64), 16),
        (MistralConfig(sliding_window=64, max_position_embeddings=64), None),
        (MistralConfig(sliding_window=None), None),
        (Qwen2Config(sliding_window=16, use_sliding_window=False), None),
        (Qwen2Config(sliding_window=16, use_sliding_window=True, max_window_layers=1), 16),
    ],
)
def test_a_window_binds_where_some_layer_has_it_and_the_context_is_longer(
    config: PreTrainedConfig, window: int | None
) -> None:
    assert binding_window(config) == window
