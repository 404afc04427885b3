"""The attention kernel against a dense softmax, and what reaches a token: its slot up to its position.

It rounds once, to bfloat16 at the end, which is at most 2^-8 of the result; the rest is float32.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import needs_kernels
from outrider_server.engine.attention.attention import make_places

from .kernel_levels import Operators
from .subjects import random

SLOTS, LENGTH, SCRATCH = 4, 256, 3
HEADS = [(12, 4), (2, 1), (8, 8)]
Run = tuple[int, int, int]
"""(slot, first position, number of tokens) of neighbouring tokens."""


def places_of(runs: list[Run], padding: int = 0) -> torch.Tensor:
    """[1, 1, T, 2] of packed runs, padding last as a step lays it out."""
    slots = [slot for slot, _, count in runs for _ in range(count)] + [SCRATCH] * padding
    positions = [first + index for _, first, count in runs for index in range(count)]
    positions += [index % 8 for index in range(padding)]
    return make_places(torch.tensor([slots]), torch.tensor([positions]))


def attention_inputs(
    heads: int, key_heads: int, dim: int, tokens: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query as the library passes it, a transposed view of [1, T, H, D]; keys and values [S, K, L, D]."""
    query = random(1, tokens, heads, dim, seed=seed).transpose(1, 2)
    keys = random(SLOTS, key_heads, LENGTH, dim, seed=seed + 1)
    return query, keys, random(SLOTS, key_heads, LENGTH, dim, seed=seed + 2)


def attend(
    operators: Operators,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
) -> torch.Tensor:
    return operators.packed_attention(query, keys, values, places, 0.2)


def dense(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, places: torch.Tensor
) -> torch.Tensor:
    """One token at a time in float32, over exactly the keys that it may see: [1, T, H, D]."""
    _, heads, tokens, dim = query.shape
    out = torch.empty((1, tokens, heads, dim))
    for token, (slot, position) in enumerate(places[0, 0].tolist()):
        seen = slice(0, position + 1)
        own_keys, own_values = (
            cache[slot, :, seen].float().repeat_interleave(heads // keys.shape[1], dim=0)
            for cache in (keys, values)
        )
        scores = torch.einsum("hd,hld->hl", query[0, :, token].float(), own_keys) * 0.2
        out[0, token] = torch.einsum("hl,hld->hd", scores.softmax(-1), own_values)
    return out


RUNS = st.lists(
    st.tuples(st.integers(0, SLOTS - 2), st.integers(0, LENGTH - 24), st.integers(1, 24)),
    min_size=1,
    max_size=5,
).filter(lambda runs: all(one[0] != two[0] for one, two in itertools.pairwise(runs)))


@needs_kernels
@settings(max_examples=40)
@given(
    runs=RUNS,
    padding=st.integers(0, 11),
    heads=st.sampled_from(HEADS),
    dim=st.sampled_from([32, 64, 96, 128]),
    seed=st.integers(0, 999),
)
def test_packed_attention_is_a_dense_softmax(
    operators: Operators, runs: list[Run], padding: int, heads: tuple[int, int], dim: int, seed: int
) -> None:
    places = places_of(runs, padding)
    query, keys, values = attention_inputs(*heads, dim, places.shape[2], seed)
    got = attend(operators, query, keys, values, places)
    wanted = dense(query, keys, values, places)
    torch.testing.assert_close(got.float(), wanted, rtol=2**-8, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("position", [0, 1, 15, 16, 62, 63, 64, 65, 126, 127, 128, LENGTH - 1])
def test_positions_around_a_block_of_keys_see_all_up_to_their_own(
    operators: Operators, position: int, heads: tuple[int, int]
) -> None:
    """All keys weigh the same and each value is the number of its position, so a key more would show."""
    query, keys, values = attention_inputs(*heads, 32, 1)
    values[:] = torch.arange(LENGTH)[:, None].clamp(max=256)
    got = attend(operators, query * 0, keys, values, places_of([(1, position, 1)]))
    assert torch.equal(got, torch.full_like(got, position / 2))


@needs_kernels
@pytest.mark.parametrize("heads", HEADS)
def test_scores_far_apart_neither_overflow_nor_vanish(
    operators: Operators, heads: tuple[int, int]
) -> None:
    """The largest score comes late, early, or in a block of its own; the softmax rescales what it has."""
    query, keys, values = attention_inputs(*heads, 64, 3)
    places = places_of([(0, 150, 1), (1, 150, 1), (2, 150, 1)])
    for slot, peak in enumerate((3, 70, 150)):
        keys[slot, :, peak] = 40 * keys[slot, :, peak].sign()
    query = (query.sign() * 30).to(torch.bfloat16)
    torch.testing.assert_close(
        attend(operators, query, keys, values, places).float(),
        dense(query, keys, values, places),
        rtol=2**-8,
        atol=1e-5,
    )


@needs_kernels
@settings(max_examples=25)
@given(
    runs=RUNS,
    padding=st.integers(0, 11),
    heads=st.sampled_from(HEADS),
    threads=st.integers(1, 3),
)
def test_a_tokens_attention_has_the_same_bits_alone_and_in_any_company(
    operators: Operators, runs: list[Run], padding: int, heads: tuple[int, int], threads: int
) -> None:
    places = places_of(runs, padding)
    query, keys, values = attention_inputs(*heads, 32, places.shape[2])
    together = attend(operators, query, keys, values, places)
    operators.set_threads(threads)
    for token in range(0, places.shape[2] - padding, operators.thrift):
        one = slice(token, token + 1)
        alone = attend(operators, query[:, :, one], keys, values, places[:, :, one])
        assert torch.equal(alone[:, 0], together[:, token])
    for cut in range(0, places.shape[2], 3 * operators.thrift):
        rest = attend(operators, query[:, :, cut:], keys, values, places[:, :, cut:])
        assert torch.equal(rest, together[:, cut:])


@needs_kernels
def test_a_query_out_of_a_fused_projection_is_read_where_it_lies(operators: Operators) -> None:
    fused = random(1, 12, 4, 3 * 32)
    query = fused[..., :32].transpose(1, 2)
    _, keys, values = attention_inputs(4, 2, 32, 12)
    places = places_of([(0, 60, 12)])
    assert torch.equal(
        attend(operators, query, keys, values, places),
        attend(operators, query.contiguous(), keys, values, places),
    )


@needs_kernels
@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_what_stands_after_a_run_or_in_other_slots_does_not_reach_it(
    operators: Operators, rubbish: float
) -> None:
    """Not even what stands in the same block of keys: a slot needs no wiping for the packed kernel."""
    places = places_of([(0, 20, 8), (2, 60, 8)])
    query, keys, values = attention_inputs(4, 2, 32, 16)
    before = attend(operators, query, keys, values, places)
    for cache in (keys, values):
        cache[0, :, 28:] = rubbish
        cache[2, :, 68:] = rubbish
        cache[[1, 3]] = rubbish
    assert torch.equal(attend(operators, query, keys, values, places), before)


@needs_kernels
def test_a_later_key_of_the_same_run_never_reaches_a_token_and_a_value_only_if_it_is_no_number(
    operators: Operators,
) -> None:
    """A masked value still meets the sum of its run as 0 times itself.

    What stands there was written by the same step, so a token spoils at most the rest of its own row.
    """
    places = places_of([(0, 20, 8)])
    query, keys, values = attention_inputs(4, 2, 32, 8)
    before = attend(operators, query, keys, values, places)
    keys[0, :, 24:], values[0, :, 24:] = torch.nan, 1e30
    assert torch.equal(attend(operators, query, keys, values, places)[:, :4], before[:, :4])
    values[0, :, 24:] = torch.nan
    alone = attend(operators, query[:, :, :4], keys, values, places[:, :, :4])
    assert torch.equal(alone, before[:, :4])


@needs_kernels
@pytest.mark.parametrize("position", [0, 63, 64, 99])
@pytest.mark.parametrize("spoiled", ["keys", "values", "query"])
def test_what_is_no_number_and_seen_is_never_hidden(
    operators: Operators, position: int, spoiled: str
) -> None:
    """A softmax that drops such a key would decide tokens where the model gave none."""
    query, keys, values = attention_inputs(4, 2, 32, 1)
    {"keys": keys[1, :, position], "values": values[1, :, position], "query": query}[spoiled].fill_(
        torch.nan
    )
    assert attend(operators, query, keys, values, places_of([(1, 99, 1)])).isnan().all()


@needs_kernels
def test_the_operators_declared_shape_is_its_shape() -> None:
    query, keys, values = attention_inputs(4, 2, 32, 5)
    arguments = (query, keys, values, places_of([(0, 3, 5)]), 0.2)
    torch.library.opcheck(torch.ops.outrider.packed_attention.default, arguments)
