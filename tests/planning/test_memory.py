"""Planned bytes against those of real engines: weights and cache exactly, the total within 5 %."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import (
    llama_config,
    loaded,
    needs_kernels,
    tiny_limits,
    tiny_llama,
    tiny_runner,
)
from outrider_bench.widening import widened
from outrider_server.engine.model.loading import facts_of
from outrider_server.engine.step import StepRunner
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER
from outrider_server.planning.config_file import read_config
from outrider_server.planning.counting import count_model
from outrider_server.planning.memory import arena_bytes as planned_arena_bytes
from outrider_server.planning.memory import plan_memory, slot_positions, token_bytes
from outrider_server.planning.shape import engine_shape
from outrider_server.planning.types import CachedLayer, EngineShape
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    MixtralConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from .comparing import WIDENED_MILLIONS, compare
from .configs import counted, options
from .measured import arena_bytes, held_by

SHARE = 0.05
SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 40,
    "intermediate_size": 70,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def check(folder: Path, mode: str, slots: int) -> None:
    """Asserts that plan and measurement agree. A recording may have copies of a model's buffers."""
    found = compare(folder, mode, slots)
    copies = found.plan.weights.buffer_bytes if mode == "auto" else 0
    assert 0 <= found.real.weights - found.planned_weights <= copies
    assert found.plan.cache_bytes == found.real.cache
    assert found.plan.table_bytes >= found.real.tables
    assert found.ratio == pytest.approx(1, abs=SHARE)


@pytest.mark.parametrize(
    ("folder", "mode", "slots"),
    [
        (TARGET_FOLDER, "off", 8),
        (TARGET_FOLDER, "auto", 8),
        (TARGET_FOLDER, "auto", 1),
        (DRAFT_FOLDER, "off", 8),
        (DRAFT_FOLDER, "auto", 1),
    ],
)
def test_a_bundled_engine_needs_what_is_planned(folder: Path, mode: str, slots: int) -> None:
    check(folder, mode, slots)


@pytest.mark.parametrize(("mode", "slots"), [("off", 2), ("auto", 2)])
def test_the_widened_target_needs_what_is_planned(
    mode: str, slots: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.getbasetemp() / "widened"
    check(widened(TARGET_FOLDER, WIDENED_MILLIONS, cache), mode, slots)


@pytest.mark.parametrize(
    ("slots", "context_tokens", "prefill_width"),
    [(1, 64, 16), (4, 96, 16), (3, 112, 16), (5, 1, 64)],
)
def test_the_cache_is_that_of_an_engine(
    slots: int, context_tokens: int, prefill_width: int, tmp_path: Path
) -> None:
    model = tiny_llama()
    model.config.save_pretrained(tmp_path)
    limits = tiny_limits(
        slots=slots,
        max_context_tokens=context_tokens,
        prefill_width=prefill_width,
        row_buckets=(1,),
    )
    request = options(
        slots=slots,
        rows=1,
        max_context_tokens=context_tokens,
        prefill_width=prefill_width,
        compile="off",
    )
    sizes = count_model(read_config(tmp_path))
    runner = tiny_runner(model, limits)
    assert (
        plan_memory(sizes, engine_shape(sizes, request)).cache_bytes
        == runner.forward.cache.byte_count
    )


GEMMA = {"head_dim": 14, "layer_types": ["full_attention"] * 2}
RECORDED = {
    "llama": llama_config(intermediate_size=70, attention_bias=True, tie_word_embeddings=True),
    "llama, not tied": llama_config(intermediate_size=70),
    "gemma 2": Gemma2Config(**SMALL, **GEMMA, num_key_value_heads=2),
    "qwen 3": Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=24),
    "gpt 2": GPT2Config(vocab_size=61, n_embd=40, n_layer=2, n_head=4, n_positions=256),
    "gpt-j": GPTJConfig(vocab_size=61, n_embd=40, n_layer=2, n_head=4, rotary_dim=4),
    "neo-x": GPTNeoXConfig(**SMALL),
    "opt": OPTConfig(
        vocab_size=61, hidden_size=40, ffn_dim=70, num_hidden_layers=2, num_attention_heads=4
    ),
    "phi": PhiConfig(**SMALL, partial_rotary_factor=0.4),
    "bloom": BloomConfig(vocab_size=61, hidden_size=40, n_layer=2, n_head=4),
    "mpt": MptConfig(vocab_size=61, d_model=40, n_layers=2, n_heads=4, max_seq_len=256),
    "falcon": FalconConfig(
        vocab_size=61, hidden_size=40, num_hidden_layers=2, num_attention_heads=4, multi_query=True
    ),
    "mixtral": MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=6),
}


@needs_kernels
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("config", RECORDED.values(), ids=RECORDED)
def test_a_recorded_engine_holds_what_is_planned(
    config: PreTrainedConfig, dtype: str, tmp_path: Path
) -> None:
    """With sizes that are no multiple of a tile. All but the layers' values is exact."""
    config = copy.deepcopy(config)
    config.dtype = dtype
    config.save_pretrained(tmp_path)
    sizes = count_model(read_config(tmp_path))
    request = options(slots=3, max_context_tokens=100, prefill_width=16)
    plan = plan_memory(sizes, shape := engine_shape(sizes, request))
    assert shape.packed
    kind = getattr(torch, dtype)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=kind)
    given = replace(loaded(tiny_llama()), model=model.eval(), **facts_of(model))
    limits = tiny_limits(slots=3, max_context_tokens=100, row_buckets=(3,))
    runner = StepRunner(given, limits, "auto")
    assert runner.layout.packed, runner.kernel_note
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    weights = plan.weights.total_bytes - plan.weights.buffer_bytes
    assert weights + plan.kernel_bytes == held_by(runner, model) - buffers
    assert plan.cache_bytes == runner.forward.cache.byte_count
    held = arena_bytes(runner)
    values = held - 4 * 24 * 61
    assert held <= planned_arena_bytes(sizes, shape)
    assert planned_arena_bytes(sizes, shape) - held <= 2 * values


def test_layers_that_differ_are_added_up_each() -> None:
    sizes = count_model(read_config(DRAFT_FOLDER))
    uneven = replace(sizes, layers=(CachedLayer(8, 8), CachedLayer(16, 4)))
    assert token_bytes(uneven, "bfloat16") == 2 * (8 + 8 + 16 + 4)


def test_compressed_keys_and_values_count_as_the_model_writes_them(tmp_path: Path) -> None:
    """DeepSeek-V3 caches one latent of 512 values and one rotary key of 64 a token and layer."""
    sizes = counted(tmp_path, {"model_type": "deepseek_v3", "num_hidden_layers": 2})
    assert set(sizes.layers) == {CachedLayer(512, 64)}


def test_a_slot_has_room_for_the_longest_row_in_whole_blocks() -> None:
    shape = EngineShape("bfloat16", "none", 1, 1, 8, 64, 64)
    assert slot_positions(shape) == 128
    longer = EngineShape("bfloat16", "none", 1, 1, 8, 64, 65)
    assert slot_positions(longer) == 256
    wide = EngineShape("bfloat16", "none", 1, 1, 64, 8, 65)
    assert slot_positions(wide) == 256


def test_attention_that_gathers_pays_for_a_copy_of_the_slots() -> None:
    sizes = count_model(read_config(TARGET_FOLDER))
    request = options(compile="off", device="cuda", slots=64)
    gathered = engine_shape(sizes, request)
    assert gathered.gathers_slots
    copied = 64 * 1152 * 2 * 2 * 64 * 2
    masks = 64 * 8 * 1152 * (1 + 7 * 3)
    layers = 64 * 8 * (4 * 384 + 3 * 1024) * 2
    assert plan_memory(sizes, gathered).workspace_bytes == max(
        copied + masks + layers, 64 * 8 * 4096 * 88
    )


def test_the_dtype_of_the_cache_is_the_models() -> None:
    sizes = count_model(read_config(TARGET_FOLDER))
    small = plan_memory(sizes, engine_shape(sizes, options(compile="off")))
    large = plan_memory(sizes, engine_shape(sizes, options(compile="off", dtype="float32")))
    assert large.cache_bytes == 2 * small.cache_bytes
