"""A draw depends on its own slot, position and logits, and on nothing that stands beside it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outrider_server.core.types import MAX_SEED, Draw, SamplingParams
from outrider_server.engine.drawing.adjusting import adjust
from outrider_server.engine.drawing.noise import gumbel_noise
from outrider_server.engine.drawing.sampling import DrawTable, Features, draw_tokens

SIZE = 19
CPU = torch.device("cpu")
HISTORY = torch.tensor(
    [[(7 * slot + 3 * place) % SIZE for place in range(32)] for slot in range(4)]
)
EVERYTHING = Features(noise=True, filters=True, penalties=True, bias=True)

SAMPLING = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5]),
    top_p=st.sampled_from([1.0, 0.5, 0.9]),
    min_p=st.sampled_from([0.0, 0.1]),
    repetition_penalty=st.sampled_from([1.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.7]),
    presence_penalty=st.sampled_from([0.0, -0.5]),
    logit_bias=st.dictionaries(st.integers(0, SIZE - 1), st.floats(-5, 5, width=32), max_size=3),
)
DRAWS = st.builds(Draw, SAMPLING, st.integers(0, MAX_SEED), st.integers(0, 9))


def noise_of(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return gumbel_noise(seeds, positions, SIZE)


def decide(
    table: DrawTable,
    slots: list[int],
    logits: torch.Tensor,
    positions: torch.Tensor,
    features: Features | None = None,
) -> torch.Tensor:
    features = features or table.features(slots)
    index = torch.tensor(slots)
    if features.scores:
        each = index.repeat_interleave(logits.shape[1])
        flat = logits.flatten(0, 1)
        flat = adjust(flat, HISTORY, each, positions.flatten(), table, features)
        logits = flat.view_as(logits)
    return draw_tokens(logits, positions, index, table, features, noise_of)


def logits_of(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn((rows, width, SIZE), generator=generator)


@settings(max_examples=150)
@given(st.lists(DRAWS, min_size=4, max_size=4), st.permutations(range(4)), st.integers(0, 999))
def test_a_row_decides_the_same_alone_and_among_any_neighbours(
    draws: list[Draw], order: list[int], seed: int
) -> None:
    """Alone, a row skips what it does not need; beside others it runs through what they need."""
    table = DrawTable(4, CPU)
    for slot, draw in enumerate(draws):
        table.write(slot, draw)
    logits = logits_of(4, 5, seed)
    positions = torch.stack([torch.arange(5) + 4 * slot for slot in range(4)])
    together = decide(table, order, logits[order], positions[order])
    for row, slot in enumerate(order):
        alone = decide(table, [slot], logits[slot : slot + 1], positions[slot : slot + 1])
        assert torch.equal(alone[0], together[row])
        every = decide(
            table, [slot], logits[slot : slot + 1], positions[slot : slot + 1], EVERYTHING
        )
        assert torch.equal(every[0], alone[0])


@settings(max_examples=60)
@given(DRAWS, st.integers(0, 999))
def test_a_step_of_many_tokens_decides_as_many_steps_of_one(draw: Draw, seed: int) -> None:
    table = DrawTable(4, CPU)
    table.write(2, draw)
    logits, positions = logits_of(1, 6, seed), torch.arange(3, 9)[None]
    whole = decide(table, [2], logits, positions)
    for column in range(6):
        one = slice(column, column + 1)
        assert torch.equal(decide(table, [2], logits[:, one], positions[:, one]), whole[:, one])


def test_the_draw_after_a_position_uses_the_noise_of_the_next() -> None:
    table = DrawTable(1, CPU)
    table.write(0, Draw(SamplingParams(), 9, 0))
    noise = gumbel_noise(torch.tensor([9]), torch.tensor([[6, 7]]), SIZE)
    drawn = decide(table, [0], torch.zeros(1, 2, SIZE), torch.tensor([[5, 6]]))
    assert torch.equal(drawn, noise.argmax(-1))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_ties_go_to_the_lowest_id(temperature: float) -> None:
    table = DrawTable(1, CPU)
    table.write(0, Draw(SamplingParams(temperature=temperature), 0, 0))
    logits = torch.full((1, 1, SIZE), -3.0)
    logits[..., [4, 9, 18]] = 2.5
    drawn = draw_tokens(
        logits,
        torch.tensor([[0]]),
        torch.tensor([0]),
        table,
        Features(noise=temperature > 0),
        lambda *_: torch.zeros(1, 1, SIZE, dtype=torch.float64),
    )
    assert int(drawn) == 4


@pytest.mark.parametrize("temperature", [5e-324, 1e-310, 1e-12])
@pytest.mark.parametrize("extra", [{}, {"top_p": 0.9}, {"min_p": 0.1}, {"top_k": 3}])
def test_the_smallest_temperature_is_greedy(temperature: float, extra: dict[str, float]) -> None:
    table = DrawTable(1, CPU)
    table.write(0, Draw(SamplingParams(temperature=temperature, **extra), 3, 0))
    logits, positions = logits_of(1, 20), torch.arange(20)[None]
    assert torch.equal(decide(table, [0], logits, positions), logits.argmax(-1))


def test_a_large_bias_decides_and_a_negative_one_forbids() -> None:
    table = DrawTable(2, CPU)
    table.write(0, Draw(SamplingParams(logit_bias={7: 3e38}), 1, 0))
    table.write(1, Draw(SamplingParams(logit_bias={7: -3e38}), 1, 0))
    logits, positions = logits_of(2, 20), torch.arange(20).expand(2, 20)
    drawn = decide(table, [0, 1], logits, positions)
    assert (drawn[0] == 7).all()
    assert not (drawn[1] == 7).any()


def test_features_name_what_any_row_needs() -> None:
    table = DrawTable(5, CPU)
    for slot, sampling in enumerate(
        [
            SamplingParams(temperature=0.0, top_k=5),
            SamplingParams(),
            SamplingParams(min_p=0.1),
            SamplingParams(temperature=0.0, presence_penalty=1.0),
            SamplingParams(temperature=0.0, logit_bias={1: 1.0}),
        ]
    ):
        table.write(slot, Draw(sampling, 0, 0))
    assert table.features([0]) == Features(), "a greedy draw needs no filter"
    assert table.features([1]) == Features(noise=True)
    assert table.features([0, 2]) == Features(noise=True, filters=True)
    assert table.features([3]) == Features(penalties=True)
    assert table.features([4, 1]) == Features(noise=True, bias=True)


def test_a_slot_draws_as_it_was_written_last() -> None:
    table = DrawTable(1, CPU)
    logits, positions = logits_of(1, 8), torch.arange(8)[None]
    table.write(0, Draw(SamplingParams(top_k=2, logit_bias={3: 50.0}), 5, 0, logprobs=4))
    assert (decide(table, [0], logits, positions) == 3).all()
    assert table.logprobs(0) == 4
    table.write(0, Draw(SamplingParams(temperature=0.0), 5, 0))
    assert torch.equal(decide(table, [0], logits, positions), logits.argmax(-1))
    assert table.logprobs(0) is None
