"""A draft with a vocabulary of its own decides as a whole model that gives all other tokens no chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from models_for_tests import (
    VOCABULARY_SIZE,
    loaded,
    needs_kernels,
    packable_llama,
    tiny_limits,
    tiny_llama,
)
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.cpp_compiler import cpp_compiler
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import NOT_FINITE, Row
from outrider_server.engine.model.known_tokens import KnownTokens
from outrider_server.engine.model.loading import LoadedModel
from outrider_server.engine.model.vocabulary import Vocabulary
from outrider_server.engine.step import StepRunner
from own_vocabularies import cut_rows, without_cut
from transformers import LlamaForCausalLM

KNOWN = (3, 4, 9, 10, 11, 17, 20, 31, 32, 33, 40, 41, 52, 59)
OTHERS = tuple(token for token in range(VOCABULARY_SIZE) if token not in KNOWN)
TOKENS = (9, 0, 33, 33, 60, 3, 0, 20)
"""Known ones and others, some of them twice."""
MORE = (41, 60, 60, 9, 9, 17, 1, 59)
FOR_EVER = 1000
DRAWS = {
    "greedy": SamplingParams(temperature=0.0),
    "sampled": SamplingParams(),
    "hot": SamplingParams(temperature=50.0),
    "top-k beyond what is known": SamplingParams(temperature=1.5, top_k=50),
    "top-k": SamplingParams(temperature=1.5, top_k=3),
    "top-p": SamplingParams(temperature=3.0, top_p=0.9),
    "min-p": SamplingParams(temperature=3.0, min_p=0.05),
    "repetition": SamplingParams(repetition_penalty=1.7),
    "repetition below 1": SamplingParams(temperature=0.0, repetition_penalty=0.3),
    "frequency and presence": SamplingParams(frequency_penalty=1.5, presence_penalty=-2.0),
    "biased": SamplingParams(temperature=0.7, logit_bias={9: 3.0, 10: -3.0, 0: 80.0, 60: 3e38}),
    "biased, greedy": SamplingParams(temperature=0.0, logit_bias={0: 1e38, 33: 2.0}),
}

Make = Callable[..., LlamaForCausalLM]
ways = pytest.mark.parametrize(
    ("make", "mode", "attention"),
    [
        pytest.param(tiny_llama, "off", "auto", id="aligned"),
        pytest.param(
            tiny_llama,
            "on",
            "sdpa",
            id="compiled",
            marks=pytest.mark.skipif(not cpp_compiler(), reason="no C++ compiler is installed"),
        ),
        pytest.param(packable_llama, "auto", "auto", id="packed", marks=needs_kernels),
    ],
)
tied_or_not = pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])


def with_map(model: LlamaForCausalLM) -> LoadedModel:
    """A model that was cut, as loading would return it."""
    known = KnownTokens(torch.tensor(KNOWN), VOCABULARY_SIZE)
    vocabulary = Vocabulary("vocabulary", VOCABULARY_SIZE, len(KNOWN) + 1, known)
    return replace(loaded(model), vocabulary=vocabulary)


def runner_of(model: LoadedModel, mode: str, attention: str) -> StepRunner:
    return StepRunner(model, tiny_limits(row_buckets=(1,)), mode, attention)


def decided(runner: StepRunner, draw: Draw) -> tuple[int, ...]:
    """Two steps of a turn that generates from position 3 on."""
    runner.draws.write(1, draw)
    steps = (Row(1, 0, TOKENS), Row(1, len(TOKENS), MORE))
    return tuple(token for row in steps for token in runner.decide([row], 1)[0].tokens)


@ways
@tied_or_not
def test_it_decides_as_a_whole_model_that_gives_other_tokens_no_chance(
    make: Make, mode: str, attention: str, tied: bool
) -> None:
    cut = runner_of(with_map(cut_rows(make(tie_word_embeddings=tied), KNOWN)), mode, attention)
    whole = without_cut(make(tie_word_embeddings=tied), KNOWN)
    reference = runner_of(loaded(whole), mode, attention)
    for name, sampling in DRAWS.items():
        for withheld in ((), (9, 33, 60)):
            got = decided(cut, Draw(sampling, 5, 3, withheld=withheld, min_new_tokens=9))
            impossible = Draw(sampling, 5, 3, withheld=OTHERS, min_new_tokens=FOR_EVER)
            if not withheld:
                assert got == decided(reference, impossible), name
            assert set(got) <= set(KNOWN), name
            assert not set(got[:11]) & set(withheld), name
    assert cut.layout.packed is reference.layout.packed is (make is packable_llama)


@ways
def test_what_is_no_number_is_seen_where_it_could_be_drawn_alone(
    make: Make, mode: str, attention: str
) -> None:
    for draw in (Draw(SamplingParams(), 5, 3), Draw(DRAWS["biased"], 5, 3)):
        unlike = cut_rows(make(), KNOWN)
        unlike.lm_head.weight.data[-1] = torch.nan
        plain = runner_of(with_map(cut_rows(make(), KNOWN)), mode, attention)
        got = decided(runner_of(with_map(unlike), mode, attention), draw)
        assert got == decided(plain, draw)
        broken = cut_rows(make(), KNOWN)
        broken.lm_head.weight.data[2] = torch.nan
        got = decided(runner_of(with_map(broken), mode, attention), draw)
        assert set(got) == {NOT_FINITE}


@ways
@pytest.mark.parametrize(
    "sampling", [SamplingParams(logit_bias={0: 3.0}), SamplingParams(repetition_penalty=1.5)]
)
def test_what_moves_logits_makes_no_other_token_possible(
    make: Make, mode: str, attention: str, sampling: SamplingParams
) -> None:
    """Also where no known token may be drawn: then there is none."""
    runner = runner_of(with_map(cut_rows(make(), KNOWN)), mode, attention)
    got = decided(runner, Draw(sampling, 5, 3, withheld=KNOWN, min_new_tokens=FOR_EVER))
    assert set(got) == {NOT_FINITE}


@ways
def test_what_is_told_of_a_token_is_of_the_targets_ids(
    make: Make, mode: str, attention: str
) -> None:
    runner = runner_of(with_map(cut_rows(make(), KNOWN)), mode, attention)
    runner.draws.write(1, Draw(SamplingParams(temperature=0.0), 5, 3, logprobs=4))
    result = runner.decide([Row(1, 0, TOKENS)], 1)[0]
    for token, told in zip(result.tokens, result.logprobs, strict=True):
        assert told.top[0] == (token, told.logprob)
        assert {each for each, _ in told.top} <= set(KNOWN)


@ways
def test_the_audit_reads_known_tokens_and_finds_all_shapes_alike(
    make: Make, mode: str, attention: str
) -> None:
    model = with_map(cut_rows(make(), KNOWN))
    engine = Engine(model, tiny_limits(), mode, attention=attention)
    assert {engine.runner.known_token(number) for number in range(50)} == set(KNOWN)
    differences = [finding.max_difference for finding in engine.audit.findings]
    assert all(difference < 1e-5 for difference in differences)  # and so a number
    assert not engine.runner.layout.packed or engine.audit.all_interchangeable
    described = engine.describe()
    found = (described.known_tokens, described.vocabulary_size, described.output_rows)
    assert found == (len(KNOWN), VOCABULARY_SIZE, len(KNOWN) + 1)


def test_own_ids_are_those_of_known_tokens_in_order_and_the_last_for_all_others() -> None:
    known = KnownTokens(torch.tensor([1, 4, 5]), 7)
    assert known.own_ids().tolist() == [3, 0, 3, 3, 1, 2, 3]
    assert known.targets_of((2, 0, 3, 9, -1)) == (5, 1)
