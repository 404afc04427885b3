"""What a step decides: each token by its own slot's draw, over the logits that stand before it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import VOCABULARY_SIZE
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.drawing.sampling import DrawTable
from outrider_server.engine.layout import NOT_FINITE, Row
from transformers import LlamaForCausalLM

from .subjects import GREEDY, Subject, both


@both
@pytest.mark.parametrize("min_new_tokens", [0, 8])
def test_a_step_decides_what_the_tokens_before_it_decide_alone(
    subject: Subject, min_new_tokens: int
) -> None:
    """Proposal and padding are in the same step, yet row i depends on the tokens up to i only."""
    tokens = tuple(range(10, 26))
    sampling = SamplingParams(temperature=0.8, top_k=9, presence_penalty=0.5)
    withheld = tuple(range(0, VOCABULARY_SIZE, 2))
    draw = Draw(sampling, 11, 4, withheld=withheld, min_new_tokens=min_new_tokens)
    subject.runner.draws.write(1, draw)
    subject.runner.prefill(Row(1, 0, tokens[:8]))
    together = subject.runner.decide([Row(1, 8, tokens[8:])], 1)[0].tokens
    one_by_one = [
        subject.runner.decide([Row(1, 8 + k, tokens[8 + k :][:1])], 1)[0].tokens[0]
        for k in range(8)
    ]
    assert list(together) == one_by_one
    young = together[: max(0, min_new_tokens - 5)]  # the first is the turn's fifth
    assert all(token % 2 for token in young)
    subject.runner.draws.write(1, Draw(sampling, 11, 4))
    free = subject.runner.decide([Row(1, 8, tokens[8:])], 1)[0].tokens
    assert together[len(young) :] == free[len(young) :]


@both
@pytest.mark.parametrize("sampling", [SamplingParams(temperature=0.0), SamplingParams()])
def test_withheld_tokens_are_drawn_from_their_position_on(
    subject: Subject, sampling: SamplingParams
) -> None:
    """Before it the next best of the same draw is, whatever a bias says; the logprobs are the model's."""
    tokens = tuple(range(20, 28))
    runner = subject.runner
    runner.draws.write(0, Draw(sampling, 3, 2, logprobs=0))
    free = runner.decide([Row(0, 0, tokens)], 1)[0]
    biased = SamplingParams(
        temperature=sampling.temperature, logit_bias=dict.fromkeys(free.tokens, 90.0)
    )
    withheld = tuple(sorted(set(free.tokens)))
    runner.draws.write(0, Draw(biased, 3, 2, 0, withheld=withheld, min_new_tokens=4))
    held_back = runner.decide([Row(0, 0, tokens)], 1)[0].tokens
    banned = SamplingParams(
        temperature=sampling.temperature, logit_bias=dict.fromkeys(free.tokens, -3e38)
    )
    runner.draws.write(0, Draw(banned, 3, 2))
    assert held_back[:5] == runner.decide([Row(0, 0, tokens)], 1)[0].tokens[:5]
    assert set(held_back[5:]) <= set(withheld)
    runner.draws.write(0, Draw(sampling, 3, 2, 0, withheld=withheld, min_new_tokens=4))
    again = runner.decide([Row(0, 0, tokens)], 1)[0]
    assert again.tokens[5:] == free.tokens[5:]
    assert again.logprobs[5:] == free.logprobs[5:]
    assert all(entry.logprob < 0 for entry in again.logprobs)


@both
def test_logprobs_are_of_the_model_before_any_sampling(subject: Subject) -> None:
    sampling = SamplingParams(temperature=2.0, top_k=3, logit_bias={5: 9.0})
    subject.runner.draws.write(2, Draw(sampling, 1, 0, logprobs=4))
    tokens = (7, 8, 9)
    result = subject.runner.decide([Row(2, 0, tokens)], 1)[0]
    wanted = subject.wanted(tokens).log_softmax(-1)
    assert len(result.logprobs) == 3
    for place, (drawn, found) in enumerate(zip(result.tokens, result.logprobs, strict=True)):
        assert found.logprob == pytest.approx(float(wanted[place, drawn]), abs=1e-4)
        assert [token for token, _ in found.top] == wanted[place].topk(4).indices.tolist()
    subject.runner.draws.write(2, GREEDY)
    assert subject.runner.decide([Row(2, 0, tokens)], 1)[0].logprobs == ()


@both
def test_more_logprobs_than_tokens_are_all_of_them(subject: Subject) -> None:
    runner = subject.make(subject.model(vocabulary_size=6))
    runner.draws.write(0, Draw(SamplingParams(), 1, 0, logprobs=20))
    assert len(runner.decide([Row(0, 0, (1,))], 1)[0].logprobs[0].top) == 6


@both
def test_no_number_decides_nothing_and_spares_the_neighbours(subject: Subject) -> None:
    model = subject.model()
    model.model.embed_tokens.weight.data[13] = torch.nan
    runner = subject.make(model)
    for slot in range(2):
        runner.draws.write(slot, GREEDY)
    wanted = runner.decide([Row(1, 0, (1, 2))], 4)[0]
    first, second = runner.decide([Row(0, 0, (1, 13)), Row(1, 0, (1, 2))], 4)
    assert NOT_FINITE in first.tokens
    assert second == wanted


@both
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, -torch.inf])
def test_one_logit_that_is_no_number_decides_nothing(
    subject: Subject, rubbish: float, temperature: float
) -> None:
    """An infinite logit would win or lose every draw, whatever the model meant."""
    model = subject.model()
    model.lm_head.weight.data[7] = 0
    model.lm_head.weight.data[7, 0] = rubbish  # infinite alone: sums of more of them are NaN
    runner = subject.make(model)
    for slot in range(2):
        runner.draws.write(slot, Draw(SamplingParams(temperature=temperature), 3, 0))
    for result in runner.decide([Row(0, 0, (1, 2)), Row(1, 0, (3,))], 2):
        assert set(result.tokens) == {NOT_FINITE}


@both
def test_the_draw_table_is_indexed_by_slot_not_by_row(subject: Subject) -> None:
    forced = [SamplingParams(temperature=0.0, logit_bias={slot: 1e4}) for slot in range(4)]
    for slot, sampling in enumerate(forced):
        subject.runner.draws.write(slot, Draw(sampling, 0, 0))
    results = subject.runner.decide([Row(slot, 0, (1,)) for slot in (3, 0, 2)], 4)
    assert [result.tokens for result in results] == [(3,), (0,), (2,)]


SAMPLINGS = [
    SamplingParams(temperature=0.0),
    SamplingParams(temperature=1.0),
    SamplingParams(temperature=0.7, top_k=9, min_p=0.01),
    SamplingParams(temperature=0.9, presence_penalty=0.5, repetition_penalty=1.3),
    SamplingParams(temperature=0.9, logit_bias={7: 2.0}),
]


@both
@settings(max_examples=20)
@given(
    chosen=st.lists(
        st.tuples(st.sampled_from(SAMPLINGS), st.integers(1, 8)), min_size=2, max_size=4
    )
)
def test_rows_of_mixed_lengths_and_samplings_decide_as_each_does_alone(
    subject: Subject, chosen: list[tuple[SamplingParams, int]]
) -> None:
    rows = []
    for slot, (sampling, length) in enumerate(chosen):
        withheld = tuple(range(slot, 60, 3))
        until = 12 if slot % 2 else 0
        draw = Draw(sampling, 5 + slot, 1, 2, withheld=withheld, min_new_tokens=until)
        subject.runner.draws.write(slot, draw)
        subject.runner.prefill(Row(slot, 0, tuple(range(slot, slot + 9))))
        rows.append(Row(slot, 9 - slot, tuple((3 * slot + k) % 60 for k in range(length))))
    together = subject.runner.decide(rows, 4)
    for row, result in zip(rows, together, strict=True):
        alone = subject.runner.decide([row], 4)[0]
        assert result.tokens == alone.tokens
        for found, wanted in zip(result.logprobs, alone.logprobs, strict=True):
            assert found.logprob == pytest.approx(wanted.logprob, abs=10 * subject.tolerance)


@both
@pytest.mark.parametrize("tied", [(0, 60), (4, 9, 18), (17, 33), tuple(range(VOCABULARY_SIZE))])
def test_ties_go_to_the_lowest_token_id(subject: Subject, tied: tuple[int, ...]) -> None:
    runner = subject.make(with_ties(subject.model(), tied))
    for slot in range(4):
        runner.draws.write(slot, GREEDY)
    for result in runner.decide([Row(slot, 0, (slot, 5, 6)) for slot in range(4)], 4):
        assert result.tokens == (tied[0],) * 3


def with_ties(model: LlamaForCausalLM, tied: tuple[int, ...]) -> LlamaForCausalLM:
    """The model with one and the same largest logit at the tied tokens."""
    for parameter in model.model.parameters():
        parameter.data.zero_()
    model.model.embed_tokens.weight.data.fill_(1)
    model.model.norm.weight.data.fill_(1)
    model.lm_head.weight.data.fill_(-1)
    model.lm_head.weight.data[list(tied)] = 1
    return model


def test_a_row_of_the_largest_seed_draws() -> None:
    table = DrawTable(1, torch.device("cpu"))
    table.write(0, Draw(SamplingParams(), 2**64 - 1, 0))
    assert int(table.seed[0]) == -1
