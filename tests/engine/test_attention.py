"""Attention over the slot cache: both versions against a dense reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import llama_config
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.attention import attention_kernels
from outrider_server.engine.attention.attention import NAME, make_places, slot_attention
from outrider_server.engine.attention.attention_kernels import (
    KERNELS,
    KEY_BLOCK,
    Rules,
    attend_flash,
    attend_gathered,
    attend_in_place,
)
from outrider_server.engine.cache import SlotCache
from transformers import AttentionInterface

LENGTH = 2 * KEY_BLOCK
SLOTS, DIM = 5, 8
Extra = tuple[torch.Tensor | None, float | None, int | None]
"""Slopes, soft cap, window."""


def tensors(
    seed: int, rows: int, heads: int, key_heads: int, width: int
) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn((rows, heads, width, DIM), generator=generator)
    keys = torch.randn((SLOTS, key_heads, LENGTH, DIM), generator=generator)
    return query, keys, torch.randn((SLOTS, key_heads, LENGTH, DIM), generator=generator)


ON_CPU = ("sdpa", "math", "eager")
"""The kernels that a CPU has, but for `flex`, which takes long to compile and has a test of its own."""


def able(extra: Extra) -> tuple[str, ...]:
    """The kernels that know these rules."""
    _, softcap, _ = extra
    return ON_CPU if softcap is None else ("eager",)


def in_place(kernel: str, *tensors: torch.Tensor) -> torch.Tensor:
    """query, keys, values and places, read row by row."""
    return attend_in_place(KERNELS[kernel], *tensors, Rules(0.3))


def every_way(
    kernel: str,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    rules: Rules,
) -> list[torch.Tensor]:
    """The kernel in place, over a gathered copy, and as the operator."""
    tensors = query, keys, values, places
    own = rules.scaling, rules.slopes, rules.softcap, rules.window
    return [
        attend_in_place(KERNELS[kernel], *tensors, rules),
        attend_gathered(KERNELS[kernel], *tensors, rules),
        slot_attention(*tensors, kernel, *own),
    ]


def slots_of(rows: torch.Tensor, width: int) -> torch.Tensor:
    """A slot a row [R] as a slot a token [R, W]."""
    return rows[:, None].expand(-1, width)


def dense(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    scale: float,
    slopes: torch.Tensor | None = None,
    softcap: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """One query at a time, over exactly the keys that it may see."""
    rows, heads, width, _ = query.shape
    out = torch.empty((rows, width, heads, DIM))
    for row in range(rows):
        for column in range(width):
            slot, position = places[row, 0, column].tolist()
            for head in range(heads):
                shared = head * keys.shape[1] // heads
                first = max(0, position + 1 - (window or position + 1))
                seen = slice(first, position + 1)
                scores = keys[slot, shared, seen] @ query[row, head, column] * scale
                if softcap is not None:
                    scores = softcap * (scores / softcap).tanh()
                if slopes is not None:
                    scores = scores + slopes[head] * (torch.arange(first, position + 1) - position)
                out[row, column, head] = scores.softmax(0) @ values[slot, shared, seen]
    return out


def flash_stand_in(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    cache_seqlens: torch.Tensor,
    cache_batch_idx: torch.Tensor,
    softmax_scale: float,
    causal: bool,
    window_size: tuple[int, int],
    softcap: float,
    alibi_slopes: torch.Tensor | None,
    num_splits: int,
) -> torch.Tensor:
    """What flash-attn documents of `flash_attn_with_kvcache`, which runs on CUDA alone.

    q [R, W, H, D]; caches [S, L, K, D]; the mask ends at the last query and the last key of a row.
    """
    assert causal
    assert num_splits == 1
    assert cache_seqlens.dtype == cache_batch_idx.dtype == torch.int32
    assert window_size[1] == -1
    assert k_cache.stride(-1) == v_cache.stride(-1) == q.stride(-1) == 1
    rows, width = q.shape[:2]
    positions = cache_seqlens.long()[:, None] - width + torch.arange(width)
    places = make_places(cache_batch_idx.long()[:, None].expand(rows, width), positions)
    window = window_size[0] + 1 if window_size[0] >= 0 else None
    whole = (tensor.transpose(1, 2) for tensor in (q, k_cache, v_cache))
    return dense(*whole, places, softmax_scale, alibi_slopes, softcap or None, window)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 999),
    starts=st.lists(st.integers(0, LENGTH - 8), min_size=1, max_size=4),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    width=st.sampled_from([1, 2, 8]),
)
def test_rows_at_ragged_positions_attend_as_a_dense_reference(
    seed: int, starts: list[int], heads: tuple[int, int], width: int
) -> None:
    rows = len(starts)
    query, keys, values = tensors(seed, rows, *heads, width)
    positions = torch.tensor(starts)[:, None] + torch.arange(width)
    places = make_places(slots_of(torch.arange(rows).flip(0) + 1, width), positions)
    wanted = dense(query, keys, values, places, 0.3)
    for kernel in ON_CPU:
        for got in every_way(kernel, query, keys, values, places, Rules(0.3)):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


SLOPES = torch.tensor([0.5, 0.25, 0.125, 0.0625])
EXTRAS = {
    "slopes": (SLOPES, None, None),
    "softcap": (None, 1.5, None),
    "window": (None, None, 20),
    "all": (SLOPES, 1.5, 150),
}
extras = pytest.mark.parametrize("extra", EXTRAS.values(), ids=EXTRAS)


@extras
def test_biases_caps_and_windows_are_those_of_a_dense_reference(extra: Extra) -> None:
    query, keys, values = tensors(7, 3, 4, 2, 8)
    positions = torch.tensor([0, 125, 240])[:, None] + torch.arange(8)
    places = make_places(slots_of(torch.tensor([4, 0, 2]), 8), positions)
    wanted = dense(query, keys, values, places, 0.7, *extra)
    for kernel in able(extra):
        for got in every_way(kernel, query, keys, values, places, Rules(0.7, *extra)):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@extras
def test_flash_is_handed_the_slots_themselves_and_the_rules_in_its_own_terms(
    extra: Extra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_kernels, "_flash_attention", lambda: flash_stand_in)
    query, keys, values = tensors(7, 3, 4, 2, 8)
    positions = torch.tensor([0, 125, 240])[:, None] + torch.arange(8)
    places = make_places(slots_of(torch.tensor([4, 0, 2]), 8), positions)
    for rules in (Rules(0.3), Rules(0.7, *extra)):
        got = attend_flash(query, keys, values, places, rules)
        own = rules.scaling, rules.slopes, rules.softcap, rules.window
        torch.testing.assert_close(got, dense(query, keys, values, places, *own))


@extras
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_kernel_is_the_plain_one_wherever_a_row_begins(
    extra: Extra, dtype: torch.dtype
) -> None:
    query, keys, values = (tensor.to(dtype) for tensor in tensors(8, 1, 4, 2, 15))
    found = set()
    for begin in range(8):
        positions = torch.arange(120 + begin, 128 + begin)[None]
        places = make_places(slots_of(torch.tensor([3]), 8), positions)
        part = query[:, :, begin : begin + 8], keys, values, places, Rules(0.7, *extra)
        compiled, plain = (attend_in_place(KERNELS[kernel], *part) for kernel in ("flex", "eager"))
        torch.testing.assert_close(
            compiled,
            plain,
            rtol=2e-2 if dtype == torch.bfloat16 else 1e-4,
            atol=1e-2 if dtype == torch.bfloat16 else 1e-5,
        )
        found.add(tuple(compiled[0, 7 - begin].flatten().tolist()))
    assert len(found) == 1


@extras
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_has_the_same_bits_wherever_its_row_begins_and_ends(
    extra: Extra, dtype: torch.dtype
) -> None:
    """Position 127 ends a block of keys; a row that reaches beyond it reads one block more."""
    query, keys, values = (tensor.to(dtype) for tensor in tensors(8, 1, 4, 2, 15))
    for kernel in able(extra):
        found = set()
        for begin in range(8):
            positions = torch.arange(120 + begin, 128 + begin)[None]
            places = make_places(slots_of(torch.tensor([3]), 8), positions)
            part = query[:, :, begin : begin + 8]
            rules = Rules(0.7, *extra)
            out = attend_in_place(KERNELS[kernel], part, keys, values, places, rules)
            found.add(tuple(out[0, 7 - begin].flatten().tolist()))
        assert len(found) == 1, kernel


def test_a_window_that_begins_after_many_hidden_blocks_gives_numbers() -> None:
    length = 10 * KEY_BLOCK
    generator = torch.Generator().manual_seed(9)
    query = torch.randn((1, 4, 8, DIM), generator=generator)
    keys, values = (torch.randn((2, 2, length, DIM), generator=generator) for _ in range(2))
    places = make_places(slots_of(torch.tensor([1]), 8), torch.arange(1200, 1208)[None])
    for softcap in (None, 1.5):
        wanted = dense(query, keys, values, places, 0.7, None, softcap, 16)
        for kernel in able((None, softcap, 16)):
            for got in every_way(
                kernel, query, keys, values, places, Rules(0.7, None, softcap, 16)
            ):
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_what_stands_after_a_token_does_not_reach_it() -> None:
    query, keys, values = tensors(1, 1, 4, 2, 8)
    places = make_places(slots_of(torch.tensor([2]), 8), torch.arange(20, 28)[None])
    before = {kernel: in_place(kernel, query, keys, values, places) for kernel in ON_CPU}
    for tensor in (keys, values):
        tensor[2, :, 25:] = 1e6
        tensor[[0, 1, 3, 4]] = 1e6
    for kernel in ON_CPU:
        after = in_place(kernel, query, keys, values, places)
        assert torch.equal(after[:, :5], before[kernel][:, :5]), kernel
        assert not torch.equal(after[:, 5:], before[kernel][:, 5:]), kernel


def test_a_row_has_the_same_bits_alone_and_among_neighbours() -> None:
    query, keys, values = tensors(2, 4, 4, 2, 8)
    positions = torch.tensor([3, 120, 200, 0])[:, None] + torch.arange(8)
    slots = slots_of(torch.tensor([4, 0, 2, 1]), 8)
    for kernel in ON_CPU:
        together = in_place(kernel, query, keys, values, make_places(slots, positions))
        for row in range(4):
            one = slice(row, row + 1)
            places = make_places(slots[one], positions[one])
            alone = in_place(kernel, query[one], keys, values, places)
            assert torch.equal(alone[0], together[row]), kernel


def test_the_cache_writes_at_the_steps_places_and_nowhere_else() -> None:
    cache = SlotCache(llama_config(), 3, 32, torch.float32, torch.device("cpu"))
    cache.place(make_places(slots_of(torch.tensor([2, 0]), 2), torch.tensor([[5, 6], [30, 31]])))
    states = torch.arange(2 * 2 * 2 * 8, dtype=torch.float32).view(2, 2, 2, 8) + 1
    keys, values = cache.update(states, -states, 1)
    assert keys.data_ptr() == cache.layers[1].keys.data_ptr(), "the cache is never copied"
    assert torch.equal(keys[2, :, 5:7], states[0])
    assert torch.equal(values[0, :, 30:], -states[1])
    assert int((keys != 0).sum()) == states.numel()
    assert not cache.layers[0].keys.any()


def test_wiping_a_slot_leaves_the_others() -> None:
    cache = SlotCache(llama_config(), 3, 32, torch.float32, torch.device("cpu"))
    for layer in cache.layers:
        layer.keys.fill_(torch.nan)
        layer.values.fill_(torch.nan)
    cache.wipe(1)
    for layer in cache.layers:
        for tensor in (layer.keys, layer.values):
            assert not tensor[1].any()
            assert tensor[[0, 2]].isnan().all()


def test_the_cache_knows_its_size() -> None:
    cache = SlotCache(llama_config(), 3, 32, torch.bfloat16, torch.device("cpu"))
    assert cache.byte_count == 2 * 2 * 3 * 2 * 32 * 8 * 2


@pytest.mark.parametrize("rows", [1, 3])
def test_the_operators_declared_shape_is_its_shape(rows: int) -> None:
    query, keys, values = tensors(0, rows, 4, 2, 8)
    places = make_places(slots_of(torch.arange(rows), 8), torch.arange(8).expand(rows, 8))
    with torch.no_grad():
        torch.library.opcheck(slot_attention, (query, keys, values, places, "sdpa", 0.3))
        more = (torch.ones(4), 2.0, 5)
        torch.library.opcheck(slot_attention, (query, keys, values, places, "eager", 0.3, *more))


def test_the_cache_refuses_keys_of_another_shape_than_the_configurations() -> None:
    cache = SlotCache(llama_config(), 3, 32, torch.float32, torch.device("cpu"))
    cache.place(make_places(slots_of(torch.tensor([2]), 2), torch.tensor([[5, 6]])))
    states = torch.zeros((1, 4, 2, 8))
    with pytest.raises(ModelRefused, match=r"4 key heads of 8 .* says 2 of 8"):
        cache.update(states, states, 0)


def ask(module: object, places: torch.Tensor | None, **extra: object) -> None:
    """One call as the library's models make it."""
    query, keys, values = tensors(0, 1, 4, 2, 8)
    AttentionInterface()[NAME](module, query, keys, values, places, scaling=0.3, **extra)


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"s_aux": torch.zeros(4)}, "attends with s_aux"),
        ({"position_bias": torch.zeros(4)}, "attends with position_bias"),
        ({"is_causal": False}, "looks ahead"),
    ],
)
def test_attention_refuses_what_it_does_not_know(extra: dict[str, object], reason: str) -> None:
    places = make_places(slots_of(torch.tensor([0]), 8), torch.arange(8)[None])
    ask(torch.nn.Module(), places, dropout=0.0, s_aux=None)
    with pytest.raises(ModelRefused, match=reason):
        ask(torch.nn.Module(), places, **extra)


def test_attention_refuses_a_mask_of_the_models_own() -> None:
    for mask in (None, torch.zeros((1, 1, 8, 8)), torch.zeros((1, 8), dtype=torch.int64)):
        with pytest.raises(ModelRefused, match="a mask of its own"):
            ask(torch.nn.Module(), mask)
