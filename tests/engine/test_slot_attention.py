"""Attention over the packed slot cache against a dense softmax, and what reaches a token, at every level.

With a cache of bfloat16, CPUs that multiply bfloat16 round queries to it; the rest is float32, or as good.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outrider_server.engine.cpp_compiler import cpp_compiler
from outrider_server.engine.packed_cache import PackedShape

from .kernel_levels import DRIVEN_UNITS
from .slot_driver import DTYPES, Rules, SlotKernels

pytestmark = pytest.mark.skipif(not cpp_compiler(), reason="no C++ compiler was found")

SLOTS, LENGTH, SCRATCH = 3, 1152, 2
HEADS = [(9, 3), (4, 1), (2, 2), (40, 1)]
DIMS = [1, 2, 15, 20, 32, 33, 64, 80, 96, 112, 128, 256]
ROUNDS_QUERIES = ("amx", "avx512_bf16")
Run = tuple[int, int, int]
"""(slot, first position, number of tokens) of neighbouring tokens."""

RULES = st.builds(
    Rules,
    scaling=st.sampled_from([0.05, 0.3]),
    softcap=st.sampled_from([0.0, 2.0, 50.0]),
    window=st.sampled_from([0, 1, 7, 64, 100, 600]),
    slopes=st.booleans(),
)
RUNS = st.lists(
    st.tuples(
        st.integers(0, SLOTS - 2),
        st.sampled_from([0, 1, 40, 63, 64, 300, 500, 511, 512, 700, 1023, 1100]),
        st.integers(1, 20),
    ),
    min_size=1,
    max_size=3,
).filter(lambda runs: all(one[0] != two[0] for one, two in itertools.pairwise(runs)))


@pytest.fixture(scope="module", params=DRIVEN_UNITS)
def kernels(request: pytest.FixtureRequest) -> Iterator[SlotKernels]:
    opened = SlotKernels(request.param)
    yield opened
    opened.close()


class Cached:
    """A cache full of random numbers, and the numbers: keys and values [S, L, K, D] as they are held."""

    def __init__(self, kernels: SlotKernels, key_heads: int, dim: int, dtype: torch.dtype) -> None:
        generator = torch.Generator().manual_seed(dim)
        self.kernels = kernels
        self.shape = PackedShape(SLOTS, key_heads, LENGTH, dim)
        sizes = (SLOTS, LENGTH, key_heads, dim)
        self.keys, self.values = (torch.randn(sizes, generator=generator) for _ in range(2))
        places = torch.cartesian_prod(torch.arange(SLOTS), torch.arange(LENGTH)).T
        kernels.make_cache(self.shape, dtype)
        kernels.remember(self.keys.flatten(0, 1), self.values.flatten(0, 1), places)
        self.keys, self.values = (held.to(dtype).float() for held in (self.keys, self.values))

    def spoil(self, slot: int, positions: range, keys: float, values: float) -> None:
        """Writes rubbish over some positions."""
        sizes = (len(positions), self.shape.key_heads, self.shape.head_dim)
        places = torch.tensor([[slot] * len(positions), list(positions)])
        self.kernels.remember(torch.full(sizes, keys), torch.full(sizes, values), places)


def places_of(runs: list[Run], padding: int = 0) -> torch.Tensor:
    """[2, T] of packed runs, padding last as a step lays it out."""
    slots = [slot for slot, _, count in runs for _ in range(count)] + [SCRATCH] * padding
    positions = [first + index for _, first, count in runs for index in range(count)]
    return torch.tensor([slots, positions + [index % 8 for index in range(padding)]])


def queries_of(tokens: int, heads: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((tokens, heads, dim), generator=torch.Generator().manual_seed(seed))


def sloped(rules: Rules, heads: int) -> Rules:
    """The rules with slopes for so many heads, where there shall be some."""
    slopes = tuple(0.5 / (1 + head) for head in range(heads)) if rules.slopes else ()
    return Rules(rules.scaling, rules.softcap, rules.window, slopes)


def dense(
    cached: Cached, query: torch.Tensor, places: torch.Tensor, rules: Rules, rounded: bool
) -> torch.Tensor:
    """One token at a time in float64, over exactly the keys that it may see: [T, H, D]."""
    group = query.shape[1] // cached.shape.key_heads
    out = torch.empty(query.shape, dtype=torch.float64)
    query = query.to(torch.bfloat16) if rounded else query
    for token, (slot, position) in enumerate(places.T.tolist()):
        first = max(position + 1 - rules.window, 0) if rules.window else 0
        keys, values = (
            held[slot, first : position + 1].double().repeat_interleave(group, dim=1)
            for held in (cached.keys, cached.values)
        )
        scores = torch.einsum("hd,lhd->hl", query[token].double(), keys) * rules.scaling
        if rules.softcap:
            scores = rules.softcap * torch.tanh(scores / rules.softcap)
        if rules.slopes:
            ahead = torch.arange(first, position + 1) - position
            scores += torch.tensor(rules.slopes)[:, None].double() * ahead
        out[token] = torch.einsum("hl,lhd->hd", scores.softmax(-1), values)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=12, deadline=None)
@given(
    runs=RUNS,
    padding=st.integers(0, 11),
    heads=st.sampled_from(HEADS),
    dim=st.sampled_from(DIMS),
    rules=RULES,
)
def test_attention_is_a_dense_softmax(
    kernels: SlotKernels,
    dtype: torch.dtype,
    runs: list[Run],
    padding: int,
    heads: tuple[int, int],
    dim: int,
    rules: Rules,
) -> None:
    cached = Cached(kernels, heads[1], dim, dtype)
    rules, places = sloped(rules, heads[0]), places_of(runs, padding)
    query = queries_of(places.shape[1], heads[0], dim)
    rounded = dtype == torch.bfloat16 and kernels.level.name in ROUNDS_QUERIES
    got = kernels.attend(query, places, rules).double()
    torch.testing.assert_close(
        got, dense(cached, query, places, rules, rounded), rtol=1e-4, atol=3e-5
    )


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=8, deadline=None)
@given(
    runs=RUNS,
    padding=st.integers(0, 11),
    heads=st.sampled_from(HEADS),
    dim=st.sampled_from([20, 64, 80]),
    rules=RULES,
    threads=st.integers(1, 3),
)
def test_a_tokens_attention_has_the_same_bits_alone_and_in_any_company(
    kernels: SlotKernels,
    dtype: torch.dtype,
    runs: list[Run],
    padding: int,
    heads: tuple[int, int],
    dim: int,
    rules: Rules,
    threads: int,
) -> None:
    Cached(kernels, heads[1], dim, dtype)
    rules, places = sloped(rules, heads[0]), places_of(runs, padding)
    query = queries_of(places.shape[1], heads[0], dim)
    kernels.set_threads(1)
    together = kernels.attend(query, places, rules)
    kernels.set_threads(threads)
    assert torch.equal(kernels.attend(query, places, rules), together)
    tokens = places.shape[1] - padding
    for token in range(0, tokens, kernels.thrift):
        one = slice(token, token + 1)
        alone = kernels.attend(query[one], places[:, one], rules)
        assert torch.equal(alone, together[one])
    for cut in range(0, tokens, 3 * kernels.thrift):
        rest = kernels.attend(query[cut:], places[:, cut:].contiguous(), rules)
        assert torch.equal(rest, together[cut:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("position", [0, 1, 15, 16, 63, 64, 65, 511, 512, 513, LENGTH - 1])
def test_positions_around_a_block_of_keys_see_all_up_to_their_own(
    kernels: SlotKernels, position: int, dtype: torch.dtype
) -> None:
    """All keys weigh the same and each value is the number of its position, so a key more would show."""
    kernels.make_cache(PackedShape(1, 1, LENGTH, 32), dtype)
    numbers = torch.arange(LENGTH).clamp(max=256).float()[:, None, None].expand(LENGTH, 1, 32)
    kernels.remember(torch.ones_like(numbers), numbers, places_of([(0, 0, LENGTH)]))
    got = kernels.attend(torch.zeros(1, 2, 32), places_of([(0, position, 1)]), Rules())
    torch.testing.assert_close(
        got, numbers[: position + 1].mean().expand_as(got), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 1, 30, 64, 200])
@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, 1e4])
def test_what_a_token_does_not_see_changes_no_bit_of_it(
    kernels: SlotKernels, rubbish: float, window: int, dtype: torch.dtype
) -> None:
    """Later positions, also those of later tokens of the step, earlier than the window, and other slots."""
    cached = Cached(kernels, 2, 33, dtype)
    runs, rules = [(0, 590, 12), (1, 62, 9)], Rules(window=window)
    places = places_of(runs)
    query = queries_of(21, 6, 33)
    clean = kernels.attend(query, places, rules)
    for slot, first, count in runs:
        cached.spoil(slot, range(first + count, LENGTH), rubbish, rubbish)
        if window:
            cached.spoil(slot, range(max(first + 1 - window, 0)), rubbish, rubbish)
    cached.spoil(SCRATCH, range(LENGTH), rubbish, rubbish)
    assert torch.equal(kernels.attend(query, places, rules), clean)
    cached.spoil(0, range(594, LENGTH), rubbish, rubbish)
    assert torch.equal(kernels.attend(query, places, rules)[:4], clean[:4])
    spoiled = kernels.attend(query, places, rules)
    for token in range(4, 12):
        seen = 594 if token == 4 or not window else max(594, 590 + token + 1 - window)
        assert seen <= 590 + token
        assert not torch.equal(spoiled[token], clean[token])
    assert torch.equal(spoiled[12:], clean[12:])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("softcap", [0.0, 30.0])
@pytest.mark.parametrize("position", [0, 63, 64, 99, 520, 599])
@pytest.mark.parametrize("spoiled", ["keys", "values", "query"])
def test_what_is_no_number_and_seen_is_never_hidden(
    kernels: SlotKernels, position: int, spoiled: str, softcap: float, dtype: torch.dtype
) -> None:
    """A softmax that drops such a key would decide tokens where the model gave none."""
    cached = Cached(kernels, 2, 20, dtype)
    query = queries_of(3, 4, 20)
    if spoiled == "query":
        query[1] = torch.nan
    else:
        number = (torch.nan, 1.0) if spoiled == "keys" else (1.0, torch.nan)
        cached.spoil(1, range(position, position + 1), *number)
    rules = Rules(softcap=softcap)
    got = kernels.attend(query, places_of([(1, 598, 3)]), rules)
    sees = [spoiled == "query" and token == 1 for token in range(3)]
    if spoiled != "query":
        sees = [598 + token >= position for token in range(3)]
    for token, seen in enumerate(sees):
        assert got[token].isnan().all() if seen else not got[token].isnan().any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_far_apart_neither_overflow_nor_vanish(
    kernels: SlotKernels, dtype: torch.dtype
) -> None:
    """The largest score comes early, late, or in a chunk of its own; the softmax rescales what it has."""
    cached = Cached(kernels, 1, 64, dtype)
    places = torch.tensor([[0, 1, 2], [700, 700, 700]])
    for slot, peak in enumerate((3, 470, 700)):
        cached.keys[slot, peak] = 40 * cached.keys[slot, peak].sign()
        spot = torch.tensor([[slot], [peak]])
        kernels.remember(cached.keys[slot, peak][None], cached.values[slot, peak][None], spot)
    query = queries_of(3, 2, 64).sign() * 30
    got = kernels.attend(query, places, Rules()).double()
    wanted = dense(cached, query, places, Rules(), rounded=False)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 15, 33, 64])
def test_a_cache_holds_each_number_once_and_zeros_in_its_padding(
    kernels: SlotKernels, dim: int, dtype: torch.dtype
) -> None:
    """Each in the group of its position, as `PackedCache` counts them."""
    kernels.make_cache(PackedShape(2, 3, 64, dim), dtype)
    keys, values = (torch.arange(1, 1 + 9 * dim).float().reshape(3, 3, dim) for _ in range(2))
    kernels.remember(keys, values, places_of([(1, 15, 3)]))
    for held, given_ in zip(kernels.recall(), (keys, values), strict=True):
        written = held[held != 0].float().sort().values
        assert torch.equal(written, given_.to(dtype).float().flatten().sort().values)
        assert torch.equal(held.count_nonzero(-1)[1, :, :2], torch.tensor([[dim, 2 * dim]] * 3))


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_rounded_to_the_nearest_as_torch_does(
    kernels: SlotKernels, dtype: torch.dtype
) -> None:
    """A query that sees one key gets its value as it is, but for its last bits."""
    values = torch.randn((16, 1, 16), generator=torch.Generator().manual_seed(1)) * 1000
    values[0, 0, :3] = torch.tensor([65500.0, 6e-8, -1e-6])
    kernels.make_cache(PackedShape(1, 1, 64, 16), dtype)
    kernels.remember(values, values, places_of([(0, 0, 16)]))
    held = kernels.recall()[1]
    assert torch.equal(held[held != 0].sort().values, values.to(dtype).flatten().sort().values)
