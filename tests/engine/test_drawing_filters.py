"""The drawing kernel with filters against plain sampling: the same tokens are kept, so the same are drawn."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import needs_kernels

from .drawn_rows import Rows, drawn, plain, some_rows
from .kernel_levels import Operators

pytestmark = needs_kernels

FEW = torch.tensor([0, 1, 2, 5, 40, 600])
TOP_P = torch.tensor([1.0, 5e-324, 0.1, 0.5, 0.75, 0.9, 1 - 2**-53], dtype=torch.float64)
MIN_P = torch.tensor([0.0, 0.0, 1e-9, 0.05, 0.5, 1.0], dtype=torch.float64)


def filtered(count: int, vocabulary_size: int, spread: float, seed: int) -> Rows:
    """Rows of every temperature and every combination of filters."""
    rows = some_rows(count, vocabulary_size, spread, seed)
    generator = torch.Generator().manual_seed(seed + 1)

    def chosen(values: torch.Tensor) -> torch.Tensor:
        return values[torch.randint(0, len(values), (count,), generator=generator)]

    rows.top_k[:] = chosen(torch.cat((FEW, vocabulary_size // torch.tensor([1, 2, 3]))))
    rows.top_p[:] = chosen(TOP_P)
    rows.floors[:] = chosen(MIN_P).log()
    return rows


@settings(max_examples=150)
@given(
    count=st.integers(1, 70),
    vocabulary_size=st.integers(1, 300) | st.integers(1000, 1100) | st.integers(4000, 4100),
    spread=st.sampled_from([0.0, 0.01, 0.3, 1.0, 3.0, 10.0, 50.0]),
    kind=st.sampled_from(["plain", "ties", "hidden", "zeros", "ends"]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 9999),
)
def test_a_filtered_draw_is_that_of_plain_sampling(
    operators: Operators,
    count: int,
    vocabulary_size: int,
    spread: float,
    kind: str,
    threads: int,
    seed: int,
) -> None:
    operators.set_threads(threads)
    rows = filtered(count, vocabulary_size, spread, seed)
    logits = rows.logits
    if kind == "ties":
        rows = rows.over((logits * 2).round() / 2)
    if kind == "hidden":
        rows = rows.over(logits.masked_fill(logits.argsort() < vocabulary_size // 2, -torch.inf))
    if kind == "zeros":
        rows = rows.over(torch.where(logits > 0, -0.0, 0.0))
    if kind == "ends":
        ends = torch.tensor([-3.4e38, -1e38, 0.0, 1e-45, 3.4e38])
        rows = rows.over(ends[(logits.abs() * 100).long() % 5])
    assert torch.equal(drawn(operators, rows), plain(rows))


@pytest.mark.parametrize(
    ("vocabulary_size", "count"), [(3, 10_000), (24, 30_000), (70, 30_000), (1024, 4_000)]
)
def test_of_many_filtered_draws_not_one_differs(
    operators: Operators, vocabulary_size: int, count: int
) -> None:
    """The last token kept has a chance of its own in each: one more or one less shows."""
    for start in range(0, count, 2000 * operators.thrift):
        rows = filtered(2000, vocabulary_size, 1.0, start)
        rows = rows.over(rows.logits * 10 ** torch.linspace(-2, 1, 2000)[:, None])
        rows.temperatures.clamp_(0.3, 3.0)
        assert torch.equal(drawn(operators, rows), plain(rows))


@functools.cache
def large(vocabulary_size: int, spread: float) -> tuple[Rows, torch.Tensor]:
    """Eight rows and their draws by plain sampling."""
    rows = filtered(8, vocabulary_size, spread, vocabulary_size)
    rows.temperatures.clamp_(0.3, 3.0)
    return rows, plain(rows)


@pytest.mark.parametrize("spread", [0.01, 1.0, 3.0])
@pytest.mark.parametrize("vocabulary_size", [32_001, 151_936])
def test_a_large_vocabularys_filtered_draw_is_that_of_plain_sampling(
    operators: Operators, vocabulary_size: int, spread: float
) -> None:
    """Fewer rows than threads are shared piece by piece."""
    rows, wanted = large(vocabulary_size, spread)
    for threads in (1, 3):
        operators.set_threads(threads)
        for part in (slice(0, 8), slice(1, 3), slice(4, 5)):
            assert torch.equal(drawn(operators, rows[part]), wanted[part])


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-44, 1e-38])
def test_the_smallest_temperatures_keep_what_plain_sampling_keeps(
    operators: Operators, temperature: float
) -> None:
    rows = filtered(60, 100, 1.0, 1)
    rows.temperatures.fill_(temperature)
    for scale in (1.0, 1e-38, 1e-44):
        scaled = rows.over(rows.logits * scale)
        assert torch.equal(drawn(operators, scaled), plain(scaled))


@pytest.mark.parametrize(("top_p", "kept"), [(0.25, 2), (0.5, 4), (0.51, 5), (0.75, 6), (1, 8)])
def test_of_tokens_with_equal_shares_as_many_are_kept_as_top_p_needs(
    operators: Operators, top_p: float, kept: int
) -> None:
    """Pairs of equal tokens, each pair so little below the last that all have an eighth."""
    rows = some_rows(600, 8, 1.0, 3)
    rows = rows.over(torch.tensor([3.0, 1.0, 2.0, 0.0, 3.0, 1.0, 2.0, 0.0]).repeat(600, 1) * 1e-5)
    rows.temperatures.fill_(1.0)
    rows.top_p.fill_(top_p)
    got = drawn(operators, rows)
    assert torch.equal(got, plain(rows))
    assert len(got.unique()) == kept + kept % 2
