"""The generator against its published vectors, and the noise made of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outrider_server.engine.drawing import noise as noise_module
from outrider_server.engine.drawing.noise import gumbel_noise, philox, seed_bits

KNOWN_ANSWERS = [
    # Random123, examples/kat_vectors, philox4x32 with 10 rounds: counter, key, answer.
    (
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ),
    (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
]
EULER = 0.5772156649015329


def words(text: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([int(word, 16)]) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, answer: str) -> None:
    got = philox(words(counter), words(key))
    assert " ".join(f"{int(word):08x}" for word in got) == answer


def test_noise_is_the_documented_function_of_the_generator() -> None:
    """One block serves two tokens, 53 bits each; computed here with Python's integers."""
    seed, position = 0xA4093822_299F31D0, 77
    got = gumbel_noise(torch.tensor([seed_bits(seed)]), torch.tensor([[position]]), 6)[0, 0]
    for token in range(6):
        key = (torch.tensor([seed & 0xFFFFFFFF]), torch.tensor([seed >> 32]))
        counter = tuple(torch.tensor([word]) for word in (token // 2, position, 0, 0))
        block = [int(word) for word in philox(counter, key)]
        high, low = block[2 * (token % 2) : 2 * (token % 2) + 2]
        uniform = (((high << 32 | low) >> 11) + 0.5) / 2**53
        assert float(got[token]) == pytest.approx(-math.log(-math.log1p(-uniform)), rel=1e-14)


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=3),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_noise_does_not_depend_on_the_shape(
    seeds: list[int], positions: list[int], size: int, smaller: int
) -> None:
    bits = torch.tensor([seed_bits(seed) for seed in seeds])
    whole = gumbel_noise(bits, torch.tensor([positions] * len(seeds)), size)
    assert whole.shape == (len(seeds), len(positions), size)
    assert whole.dtype == torch.float64
    for row in range(len(seeds)):
        for column, position in enumerate(positions):
            alone = gumbel_noise(
                bits[row : row + 1], torch.tensor([[position]]), min(size, smaller)
            )
            assert torch.equal(alone[0, 0], whole[row, column, : min(size, smaller)])


def test_every_part_of_the_key_changes_every_token() -> None:
    def at(seed: int, position: int) -> torch.Tensor:
        return gumbel_noise(torch.tensor([seed_bits(seed)]), torch.tensor([[position]]), 32)[0, 0]

    first = at(5, 9)
    assert len(set(first.tolist())) == 32
    for seed, position in [(6, 9), (5 + 2**32, 9), (5 + 2**63, 9), (5, 10), (5, 9 + 2**31)]:
        assert not (at(seed, position) == first).any()


def test_mean_and_variance_are_gumbels() -> None:
    """2^18 draws. The mean has standard error pi / sqrt(6 N), the variance sqrt((22/5 pi^4/36... - 1) / N).

    With excess kurtosis 12/5 the variance of the sample variance is sigma^4 (kurtosis - 1) / N =
    sigma^4 * 4.4 / N. Bounds are six standard errors: a sound generator fails once in 5 * 10^8 seeds,
    and these seeds are fixed.
    """
    draws = gumbel_noise(torch.arange(16), torch.arange(64).expand(16, 64), 256).flatten()
    count, variance = draws.numel(), math.pi**2 / 6
    assert abs(draws.mean() - EULER) < 6 * math.sqrt(variance / count)
    assert abs(draws.var() - variance) < 6 * variance * math.sqrt(4.4 / count)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbours_are_uncorrelated(axis: int) -> None:
    """Over about 2^18 pairs the correlation has standard error 1/512; the bound is six of them."""
    draws = gumbel_noise(torch.arange(64), torch.arange(64).expand(64, 64), 64)
    ahead = draws.narrow(axis, 1, 63).flatten()
    behind = draws.narrow(axis, 0, 63).flatten()
    pair = torch.stack((ahead, behind))
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 6 / math.sqrt(ahead.numel())


@pytest.mark.parametrize("bits", [0, 1, 2**52, 2**53 - 2, 2**53 - 1])
def test_noise_is_never_nan_nor_plus_infinity(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The extremes of the 53 bits cannot be found by search, so the generator is made to give them."""
    high, low = bits >> 21, (bits & (2**21 - 1)) << 11

    def fixed(counter: noise_module.Words, key: object) -> noise_module.Words:
        shape = torch.broadcast_shapes(*(word.shape for word in counter))
        return tuple(torch.full(shape, word) for word in (high, low, high, low))

    monkeypatch.setattr(noise_module, "philox", fixed)
    draws = gumbel_noise(torch.tensor([0]), torch.tensor([[0]]), 4)
    assert not draws.isnan().any()
    assert (draws < 38).all()


def test_noise_is_finite_at_extreme_seeds_and_positions() -> None:
    seeds = torch.tensor([seed_bits(seed) for seed in (0, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)])
    positions = torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 1]).expand(5, 5)
    assert gumbel_noise(seeds, positions, 1001).isfinite().all()


def test_seed_bits_keeps_all_64_bits() -> None:
    for seed in (0, 1, 2**63 - 1, 2**63, 2**64 - 1):
        assert seed_bits(seed) % 2**64 == seed
        torch.tensor([seed_bits(seed)])
