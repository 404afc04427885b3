"""The drawing kernel against plain sampling: the very same tokens, over the very same noise.

The two take their logarithms from different libraries, whose last bits may differ, so a tie of two scores to
about 2^-50 could tell them apart. No seed here has one.
"""

from __future__ import annotations

import ctypes
import shutil
from dataclasses import replace as replaced
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from models_for_tests import needs_kernels
from outrider_server.engine.cpp_compiler import cpp_compiler
from outrider_server.engine.drawing import noise as noise_module
from outrider_server.engine.drawing.noise import gumbel_noise, philox
from outrider_server.engine.kernels import building
from outrider_server.engine.kernels.drawing import DrawingLibrary
from outrider_server.engine.kernels.levels import chosen_level
from outrider_server.engine.layout import NOT_FINITE

from .drawn_rows import drawn, plain, some_rows
from .kernel_levels import Operators

pytestmark = needs_kernels

SPREADS = st.sampled_from([0.01, 0.3, 1.0, 3.0, 10.0, 50.0])


@settings(max_examples=120)
@given(
    count=st.integers(1, 70),
    vocabulary_size=st.integers(1, 140) | st.integers(1000, 1100),
    spread=SPREADS,
    kind=st.sampled_from(["plain", "ties", "hidden"]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 9999),
)
def test_a_draw_is_that_of_plain_sampling(
    operators: Operators,
    count: int,
    vocabulary_size: int,
    spread: float,
    kind: str,
    threads: int,
    seed: int,
) -> None:
    operators.set_threads(threads)
    rows = some_rows(count, vocabulary_size, spread, seed)
    if kind == "ties":
        rows = rows.over((rows.logits / spread).round() * spread)
    if kind == "hidden":
        hidden = rows.logits.argsort(dim=-1) < vocabulary_size // 2  # any half
        rows = rows.over(rows.logits.masked_fill(hidden, -torch.inf))
    assert torch.equal(drawn(operators, rows), plain(rows))


@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0, 50.0])
@pytest.mark.parametrize("vocabulary_size", [4096, 50_000, 32_001])
def test_a_draw_over_a_large_vocabulary_is_that_of_plain_sampling(
    operators: Operators, vocabulary_size: int, spread: float
) -> None:
    rows = some_rows(16, vocabulary_size, spread, vocabulary_size)
    assert torch.equal(drawn(operators, rows), plain(rows))


@pytest.mark.parametrize(
    ("vocabulary_size", "count"), [(2, 20_000), (61, 150_000), (259, 30_000), (1024, 10_000)]
)
def test_of_many_draws_not_one_differs(
    operators: Operators, vocabulary_size: int, count: int
) -> None:
    """210,000 in all, each row with a spread of its own."""
    for start in range(0, count, 2000 * operators.thrift):
        rows = some_rows(2000, vocabulary_size, 1.0, start)
        spreads = 10 ** torch.linspace(-2, 1.7, 2000)[:, None]
        rows = rows.over(rows.logits * spreads)
        assert torch.equal(drawn(operators, rows), plain(rows))


@settings(max_examples=100)
@given(
    vocabulary_size=st.integers(2, 3000),
    temperature=st.sampled_from([1e-3, 0.1, 0.7, 1.0, 3.0, 100.0]),
    largest=st.sampled_from([0.0, 7.3, -1000.7]),
    seed=st.integers(0, 9999),
)
def test_a_token_that_wins_or_loses_by_the_last_bit_is_drawn_or_not(
    operators: Operators, vocabulary_size: int, temperature: float, largest: float, seed: int
) -> None:
    """The bound excludes no winner: each row has one token whose u lies at the very edge of it.

    All but two tokens are out of the question. Of these two one is the most probable; the other's logit is
    moved in the smallest steps, across the place where their scores are equal.
    """
    steps = torch.arange(-8, 9)
    row = some_rows(1, 1, 1.0, seed)
    largest = float(torch.tensor(largest))
    noise = gumbel_noise(row.seeds, row.positions[:, None] + 1, vocabulary_size)[0, 0]
    best, other = int(noise.argmin()), int(noise.argmax())
    edge = torch.tensor(largest + temperature * float(noise[best] - noise[other]))
    step = torch.nextafter(edge, torch.tensor(torch.inf)) - edge
    logits = torch.full((len(steps), vocabulary_size), largest - 90 * max(temperature, 1.0))
    logits[:, best] = largest
    logits[:, other] = edge + steps * step
    rows = replaced(
        some_rows(len(steps), vocabulary_size, 1.0, seed).over(logits),
        temperatures=torch.full((len(steps),), temperature, dtype=torch.float64),
        seeds=row.seeds.repeat(len(steps)),
        positions=row.positions.repeat(len(steps)),
    )
    wanted = plain(rows)
    assert wanted[0] == best
    assert wanted[-1] == other
    assert torch.equal(drawn(operators, rows), wanted)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-44, 1e-38])
def test_the_smallest_temperatures_neither_overflow_nor_miss(
    operators: Operators, temperature: float
) -> None:
    """1 / T is beyond float; logits that differ by about T still compete."""
    rows = some_rows(40, 100, 1.0, 1)
    rows.temperatures.fill_(temperature)
    for scale in (1.0, 1e-38, 1e-44):
        scaled = rows.over(rows.logits * scale)
        assert torch.equal(drawn(operators, scaled), plain(scaled))


def test_logits_at_the_ends_of_their_range_neither_overflow_nor_miss(operators: Operators) -> None:
    rows = some_rows(200, 70, 1.0, 2)
    ends = torch.tensor([-3.4e38, -1e38, 0.0, 1e38, 3.4e38])
    rows = rows.over(ends[(rows.logits.abs() * 100).long() % 5])
    assert torch.equal(drawn(operators, rows), plain(rows))


@settings(max_examples=30)
@given(begin=st.integers(0, 69), count=st.integers(1, 70), threads=st.integers(1, 3))
def test_a_draw_is_the_same_in_any_company(
    operators: Operators, begin: int, count: int, threads: int
) -> None:
    rows = some_rows(70, 333, 1.0, 3)
    operators.set_threads(1)
    together = drawn(operators, rows)
    operators.set_threads(threads)
    part = slice(begin, min(begin + count, 70))
    assert torch.equal(drawn(operators, rows[part]), together[part])


def test_rows_without_numbers_have_no_token_and_greedy_rows_the_most_probable(
    operators: Operators,
) -> None:
    rows = some_rows(12, 40, 0.01, 4)
    rows.temperatures[:] = torch.tensor([0.0, 1.0]).repeat(6)
    rows.logits[4:8] = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.nan])[:, None]
    rows.best[4:8] = NOT_FINITE
    got = drawn(operators, rows)
    assert got[4:8].tolist() == [NOT_FINITE] * 4
    assert torch.equal(got[::2], rows.best[::2])
    assert not torch.equal(got[9::2], rows.best[9::2])
    assert torch.equal(got, plain(rows))


def test_logits_that_do_not_lie_in_order_are_read_in_order(operators: Operators) -> None:
    rows = some_rows(9, 50, 1.0, 5)
    wanted, wider = drawn(operators, rows), torch.nn.functional.pad(rows.logits, (0, 7), value=9.0)
    for logits in (rows.logits.T.contiguous().T, wider[:, :50]):
        assert torch.equal(drawn(operators, replaced(rows, logits=logits)), wanted)


def test_every_bit_of_the_seed_and_the_position_counts(operators: Operators) -> None:
    """By chance the draws of 64 rows over 500 tokens all stay the same once in 500^64 times."""
    rows = replaced(
        some_rows(64, 500, 0.01, 6),
        temperatures=torch.ones(64, dtype=torch.float64),
        seeds=torch.arange(64) * 0x9E3779B97F4A7C1,
        positions=torch.arange(64) * 1000,
    )
    base = drawn(operators, rows)
    for bit in range(64):
        changed = rows.seeds ^ (1 << bit if bit < 63 else -(2**63))
        assert not torch.equal(drawn(operators, replaced(rows, seeds=changed)), base)
    for bit in range(17):
        moved = replaced(rows, positions=rows.positions ^ (1 << bit))
        assert not torch.equal(drawn(operators, moved), base)
        assert torch.equal(drawn(operators, moved), plain(moved))


def replace(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def simple_library(tmp_path_factory: pytest.TempPathFactory) -> DrawingLibrary:
    """The kernels that draw, with multipliers of 1 in place of Philox's."""
    folder = tmp_path_factory.mktemp("simple")
    sources = [folder / "drawing.cpp", folder / "pool.cpp"]
    for name in (*(source.name for source in sources), *building.HEADERS):
        shutil.copy(building.FOLDER / name, folder)
    replace(folder / "drawing.h", "{0xd2511f53, 0xcd9e8d57}", "{1, 1}")
    library = folder / "simple.so"
    building.compile_library(cpp_compiler(), chosen_level(), sources, library)
    return DrawingLibrary(ctypes.CDLL(str(library)))


@pytest.fixture
def simple_kernels(
    simple_library: DrawingLibrary, monkeypatch: pytest.MonkeyPatch
) -> DrawingLibrary:
    """The same multipliers for the plain noise.

    Then all even tokens of a row have one u, and seeds can be found for what no search would find.
    """
    monkeypatch.setattr(noise_module, "MULTIPLIERS", (1, 1))
    return simple_library


def seed_whose_even_tokens_have_noise_of_minus_infinity() -> int:
    """Under the simple generator: all 53 bits of u are ones. Found from the lowest bits up."""
    zero, keys = torch.zeros((), dtype=torch.int64), (0, 0)
    for bit in range(32):
        for choice in range(4):
            tried = (keys[0] | (choice & 1) << bit, keys[1] | (choice >> 1) << bit)
            words = philox((zero,) * 4, (torch.tensor(tried[0]), torch.tensor(tried[1])))
            if int(words[0] & words[1]) >> bit & 1:
                keys = tried
                break
    return noise_module.seed_bits(keys[1] << 32 | keys[0])


@pytest.mark.parametrize("spread", [0.3, 1.0, 10.0])
def test_of_tokens_that_tie_the_lowest_is_drawn(
    simple_kernels: DrawingLibrary, spread: float
) -> None:
    """Few different logits, and one u for half of the tokens: most rows have a tie of equal scores."""
    rows = some_rows(2000, 150, 1.0, 8)
    rows = rows.over(-spread * rows.logits.abs().round())
    got, wanted = drawn(simple_kernels, rows), plain(rows)
    assert torch.equal(got, wanted)
    tied = rows.logits[:, ::2] == rows.logits.gather(1, wanted[:, None])
    assert ((wanted % 2 == 0) & (tied.sum(dim=1) > 1)).sum() > 200


@pytest.mark.parametrize("vocabulary_size", [1, 2, 70, 333])
def test_noise_of_minus_infinity_loses_and_ties_with_itself(
    simple_kernels: DrawingLibrary, vocabulary_size: int
) -> None:
    """Half of the rows have nothing else: there all scores are minus infinity, and token 0 is the lowest."""
    rows = some_rows(200, vocabulary_size, 1.0, 9)
    rows.seeds[:] = seed_whose_even_tokens_have_noise_of_minus_infinity()
    noise = gumbel_noise(rows.seeds[:1], rows.positions[:1, None], vocabulary_size)
    assert noise[..., ::2].isneginf().all()
    rows.logits[::2, 1::2] = -torch.inf
    rows.temperatures.clamp_(min=1e-3)
    rows.top_p[::3] = 0.5
    rows = rows.over(rows.logits)
    got = drawn(simple_kernels, rows)
    assert torch.equal(got, plain(rows))
    assert not got[::2].any()


@settings(max_examples=100)
@given(
    count=st.integers(1, 5),
    vocabulary_size=st.integers(1, 100),
    rubbish=st.sampled_from([0.0, torch.nan, torch.inf, -torch.inf]),
    hidden=st.booleans(),
    seed=st.integers(0, 9999),
)
def test_the_first_of_the_largest_logits_is_the_most_probable(
    operators: Operators, count: int, vocabulary_size: int, rubbish: float, hidden: bool, seed: int
) -> None:
    """Zeros of both signs tie. A row with a logit that is no number has none, but -inf may hide some."""
    logits = some_rows(count, vocabulary_size + 3, 1.0, seed).logits.round()[:, :vocabulary_size]
    logits[0, seed % vocabulary_size] = -0.0
    logits[-1, seed // 3 % vocabulary_size] = rubbish
    assume(not (hidden and (logits.isnan() | logits.isposinf()).any()))
    largest = logits.amax(dim=-1)
    numbers = largest.isfinite() if hidden else logits.isfinite().all(dim=-1)
    wanted = torch.where(numbers, logits.argmax(dim=-1), NOT_FINITE)
    assert torch.equal(operators.most_probable(logits, hidden), wanted)
