"""Planned bytes against those of real engines: weights and cache exactly, the total within 5 %."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from models_for_tests import packable_llama, packed_runner, tiny_limits, tiny_llama, tiny_runner
from outrider_bench.widening import widened
from outrider_server.engine.kernels import kernels_missing
from outrider_server.engine.model.packed_layers import PackedLinear
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER
from outrider_server.planning.config_file import read_config
from outrider_server.planning.counting import count_model
from outrider_server.planning.memory import plan_memory, slot_positions, token_bytes
from outrider_server.planning.shape import engine_shape
from outrider_server.planning.types import CachedLayer, EngineShape
from outrider_server.planning.weights import packing_bytes

from .comparing import WIDENED_MILLIONS, compare
from .configs import counted, options

SHARE = 0.05


def check(folder: Path, mode: str, slots: int) -> None:
    """Asserts that plan and measurement agree."""
    found = compare(folder, mode, slots)
    assert found.planned_weights == found.real.weights
    assert found.plan.cache_bytes == found.real.cache
    assert found.plan.table_bytes >= found.real.tables
    assert found.ratio == pytest.approx(1, abs=SHARE)


@pytest.mark.parametrize(
    ("folder", "mode", "slots"),
    [
        (TARGET_FOLDER, "off", 8),
        (TARGET_FOLDER, "eager", 8),
        (TARGET_FOLDER, "eager", 1),
        (DRAFT_FOLDER, "off", 8),
        (DRAFT_FOLDER, "eager", 1),
        (DRAFT_FOLDER, "auto", 8),
    ],
)
def test_a_bundled_engine_needs_what_is_planned(folder: Path, mode: str, slots: int) -> None:
    check(folder, mode, slots)


@pytest.mark.parametrize(("mode", "slots"), [("off", 2), ("eager", 2)])
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
    assert plan_memory(sizes, engine_shape(sizes, request)).cache_bytes == runner.cache.byte_count


@pytest.mark.skipif(bool(kernels_missing()), reason="the engine's own kernels do not run here")
def test_packed_layers_have_the_planned_bytes(tmp_path: Path) -> None:
    """With sizes that are no multiple of a tile, and biases."""
    model = packable_llama(
        vocabulary_size=61, intermediate_size=70, attention_bias=True, tie_word_embeddings=True
    )
    model.config.save_pretrained(tmp_path)
    before = sum(tensor.nbytes for tensor in model.parameters())
    packed_runner(model)
    packed = [module for module in model.modules() if isinstance(module, PackedLinear)]
    assert packed
    after = sum(tensor.nbytes for tensor in model.parameters())
    after += sum(module.packed.nbytes for module in packed)
    after += sum(module.bias.nbytes for module in packed if module.bias is not None)
    assert packing_bytes(count_model(read_config(tmp_path)), "none") == after - before


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
