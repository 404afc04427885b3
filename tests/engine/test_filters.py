"""Penalties and filters against the library's own, and against references short enough to check by eye."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.drawing.adjusting import penalize
from outrider_server.engine.drawing.sampling import (
    LOG2E,
    DrawTable,
    Features,
    draw_tokens,
    keep_probable,
    masses_of,
)
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

SIZE = 23
CPU = torch.device("cpu")
SLOTS = torch.tensor([0])


def table_of(sampling: SamplingParams, generated_from: int = 0) -> DrawTable:
    table = DrawTable(1, CPU)
    table.write(0, Draw(sampling, 0, generated_from))
    return table


def random_logits(seed: int, width: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn((1, width, SIZE), generator=generator)


def assert_same_kept(sampling: SamplingParams, warpers: list[object], seed: int) -> None:
    """The masses of top-p are right to 10^-5, so the library may differ where a sum comes so close."""
    logits = random_logits(seed)
    got = keep_probable(logits, SLOTS, table_of(sampling))
    wanted = logits[0].double()
    for warper in warpers:
        if isinstance(warper, TopPLogitsWarper):
            sums = wanted.sort(descending=True).values.softmax(-1).cumsum(-1)
            assume((sums - sampling.top_p).abs().min() > 1e-4)
        wanted = warper(None, wanted)
    assert torch.equal(got[0], wanted != -torch.inf)


@settings(max_examples=60)
@given(st.integers(0, 2**20), st.integers(1, SIZE + 5))
def test_top_k_keeps_what_the_library_keeps(seed: int, top_k: int) -> None:
    assert_same_kept(SamplingParams(top_k=top_k), [TopKLogitsWarper(top_k)], seed)


@settings(max_examples=60)
@given(st.integers(0, 2**20), st.floats(0.01, 0.999))
def test_top_p_keeps_what_the_library_keeps(seed: int, top_p: float) -> None:
    assert_same_kept(SamplingParams(top_p=top_p), [TopPLogitsWarper(top_p)], seed)


@settings(max_examples=60)
@given(st.integers(0, 2**20), st.floats(0.001, 1))
def test_min_p_keeps_what_the_library_keeps(seed: int, min_p: float) -> None:
    assert_same_kept(SamplingParams(min_p=min_p), [MinPLogitsWarper(min_p)], seed)


@settings(max_examples=60)
@given(st.integers(0, 2**20), st.integers(1, SIZE), st.floats(0.05, 0.99), st.floats(0.001, 0.5))
def test_filters_apply_in_the_librarys_order(
    seed: int, top_k: int, top_p: float, min_p: float
) -> None:
    sampling = SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p)
    warpers = [TopKLogitsWarper(top_k), TopPLogitsWarper(top_p), MinPLogitsWarper(min_p)]
    assert_same_kept(sampling, warpers, seed)


def test_a_row_without_filters_keeps_every_token_whatever_its_neighbour_filters() -> None:
    """The masses below the tail are all of the mass long before the last token."""
    table = DrawTable(2, CPU)
    table.write(0, Draw(SamplingParams(), 0, 0))
    table.write(1, Draw(SamplingParams(top_p=0.5), 0, 0))
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn((1, 500, 50), generator=generator)
    got = keep_probable(logits.expand(2, 500, 50), torch.tensor([0, 1]), table)
    assert got[0].all()
    assert not got[1].all()


def test_ties_with_the_last_token_kept_are_kept() -> None:
    logits = torch.tensor([[[1.0, 3.0, 2.0, 2.0, 2.0, 0.0]]])
    for sampling in (SamplingParams(top_k=2), SamplingParams(top_p=0.6)):
        got = keep_probable(logits, SLOTS, table_of(sampling))
        assert got[0, 0].tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(top_k=1),
        SamplingParams(top_p=5e-324),
        SamplingParams(min_p=1.0),
    ],
)
def test_the_narrowest_filter_keeps_the_most_probable_token(sampling: SamplingParams) -> None:
    logits = random_logits(5)
    got = keep_probable(logits, SLOTS, table_of(sampling))
    assert torch.equal(got, logits == logits.amax(-1, keepdim=True))


@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 100.0])
def test_masses_are_whole_shares_of_the_largest_right_to_a_hundred_thousandth(
    temperature: float,
) -> None:
    logits = torch.linspace(7.5 - 25 * temperature, 7.5, 100_001)
    masses = masses_of(logits, torch.tensor([temperature], dtype=torch.float64))
    shares = ((logits.double() - 7.5) / temperature).exp()
    assert masses.dtype == torch.int64
    assert masses[-1] == 2**31
    assert (masses.diff() >= 0).all()
    assert ((masses / 2**31 - shares).abs() <= 1.2e-5 * shares + 2**-31).all()


def test_masses_of_whole_octaves_are_powers_of_two_and_nothing_from_32_on() -> None:
    octaves = torch.arange(34.0)
    masses = masses_of(-octaves, torch.tensor([LOG2E], dtype=torch.float64))
    assert masses[:32].tolist() == [2 ** (31 - octave) for octave in range(32)]
    assert not masses[32:].any()
    assert not masses_of(torch.tensor([-torch.inf, 0.0]), torch.tensor([5e-324]).double())[0]


@pytest.mark.parametrize("temperature", [0.1, 0.7, 1.0, 3.0])
def test_temperature_divides_as_the_library_does(temperature: float) -> None:
    """The library's scores and ours differ by a constant, so their softmax is the same."""
    logits = random_logits(2)
    noise = random_logits(3).double()
    positions = torch.arange(3).expand(1, 3)
    drawn = draw_tokens(
        logits,
        positions,
        SLOTS,
        table_of(SamplingParams(temperature=temperature)),
        Features(noise=True),
        lambda *_: noise,
    )
    wanted = TemperatureLogitsWarper(temperature)(None, logits[0].double()) + noise[0]
    assert torch.equal(drawn[0], wanted.argmax(-1))


def penalized(
    logits: torch.Tensor, history: torch.Tensor, positions: torch.Tensor, table: DrawTable
) -> torch.Tensor:
    """Penalties on [R, W, V] logits, a slot a row."""
    rows, width, _ = logits.shape
    moved = logits.flatten(0, 1).clone()
    slots = torch.arange(rows).repeat_interleave(width)
    penalize(moved, history, slots, positions.flatten(), table)
    return moved.view_as(logits)


HISTORY = st.lists(st.integers(0, SIZE - 1), min_size=12, max_size=12)


@settings(max_examples=60)
@given(st.integers(0, 2**20), HISTORY, st.floats(0.1, 5), st.integers(0, 8))
def test_repetition_penalty_is_the_librarys_row_by_row(
    seed: int, history: list[int], penalty: float, start: int
) -> None:
    """Row i of a step sees the history up to i, so a proposal is penalized as if it were committed."""
    logits = random_logits(seed)
    positions = torch.arange(start, start + 3).expand(1, 3)
    table = table_of(SamplingParams(repetition_penalty=penalty))
    got = penalized(logits, torch.tensor([history]), positions, table)
    for row in range(3):
        seen = torch.tensor([history[: start + row + 1]])
        wanted = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits[:, row].clone())
        torch.testing.assert_close(got[:, row], wanted, rtol=1e-6, atol=0)


@settings(max_examples=60)
@given(
    st.integers(0, 2**20),
    HISTORY,
    st.floats(-3, 3),
    st.floats(-3, 3),
    st.integers(0, 8),
    st.integers(0, 12),
)
def test_frequency_and_presence_count_what_the_turn_generated(
    seed: int,
    history: list[int],
    frequency: float,
    presence: float,
    start: int,
    generated_from: int,
) -> None:
    logits = random_logits(seed)
    positions = torch.arange(start, start + 3).expand(1, 3)
    sampling = SamplingParams(frequency_penalty=frequency, presence_penalty=presence)
    table = table_of(sampling, generated_from)
    got = penalized(logits, torch.tensor([history]), positions, table)
    for row in range(3):
        generated = history[generated_from : start + row + 1]
        for token in range(SIZE):
            count = generated.count(token)
            wanted = float(logits[0, row, token]) - count * frequency - (count > 0) * presence
            assert float(got[0, row, token]) == pytest.approx(wanted, abs=1e-4)


def test_a_row_without_penalties_is_untouched_beside_one_with() -> None:
    table = DrawTable(2, CPU)
    table.write(0, Draw(SamplingParams(), 0, 0))
    table.write(1, Draw(SamplingParams(repetition_penalty=2, presence_penalty=1), 0, 0))
    logits = random_logits(4).expand(2, 3, SIZE)
    positions = torch.arange(3).expand(2, 3)
    history = torch.tensor([[1, 2, 3], [1, 2, 3]])
    got = penalized(logits, history, positions, table)
    assert torch.equal(got[0], logits[0])
    assert not torch.equal(got[1], logits[1])
