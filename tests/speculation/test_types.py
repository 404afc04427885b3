"""The nouns of the loop: what they refuse, and the acceptance rule."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.core.errors import InvalidRequest
from outrider_server.core.types import (
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_SEED,
    Draw,
    Proposal,
    SamplingParams,
    Step,
    Verdict,
    decide,
    tokens_digest,
    usable_length,
)

TINY = 5e-324
BOUNDS = {
    "temperature": ([0, TINY, 0.5, 1, 100], [-TINY, -1, 100.001]),
    "top_k": ([0, 1, 40, 2**31 - 1], [-1, 2**31]),
    "top_p": ([TINY, 0.5, 1], [0, -0.1, 1.0001]),
    "min_p": ([0, 0.5, 1], [-TINY, 1.0001]),
    "repetition_penalty": ([TINY, 1, 1.3, 100], [0, -1, 100.1]),
    "frequency_penalty": ([-100, 0, 100], [-100.1, 100.1]),
    "presence_penalty": ([-100, 0, 100], [-100.1, 100.1]),
}
INSIDE = [(name, value) for name, (inside, _) in BOUNDS.items() for value in inside]
OUTSIDE = [
    (name, value)
    for name, (_, outside) in BOUNDS.items()
    for value in [*outside, math.nan, math.inf, -math.inf]
]


@pytest.mark.parametrize(("name", "value"), INSIDE)
def test_a_sampling_parameter_inside_its_range_is_kept(name: str, value: float) -> None:
    assert getattr(SamplingParams(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_a_sampling_parameter_outside_its_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=name) as refused:
        SamplingParams(**{name: value})
    assert refused.value.field == f"sampling.{name}"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, -1e39])
def test_a_logit_bias_that_is_no_float32_is_refused(value: float) -> None:
    """The wire and the engine hold biases as float32; a larger one would fail a whole batch."""
    with pytest.raises(InvalidRequest) as refused:
        SamplingParams(logit_bias={3: value})
    assert refused.value.field == "sampling.logit_bias"


def test_logit_bias_takes_a_bounded_number_of_tokens() -> None:
    SamplingParams(logit_bias=dict.fromkeys(range(MAX_LOGIT_BIAS), 1.0))
    with pytest.raises(InvalidRequest, match="at most 1024"):
        SamplingParams(logit_bias=dict.fromkeys(range(MAX_LOGIT_BIAS + 1), 1.0))


def test_withheld_tokens_are_of_the_vocabulary_and_leave_one_to_draw() -> None:
    Draw(SamplingParams(), 0, 0, withheld=(0, 9, 9), min_new_tokens=3).check_vocabulary(10)
    for withheld in ((10,), (-1,), tuple(range(10))):
        with pytest.raises(InvalidRequest) as refused:
            Draw(SamplingParams(), 0, 0, withheld=withheld).check_vocabulary(10)
        assert refused.value.field == "withheld_token_ids"
    with pytest.raises(InvalidRequest) as refused:
        Draw(SamplingParams(), 0, 0, withheld=(1,) * 2049)
    assert refused.value.field == "withheld_token_ids"
    with pytest.raises(InvalidRequest) as refused:
        Draw(SamplingParams(), 0, 0, min_new_tokens=-1)
    assert refused.value.field == "min_new_tokens"


@pytest.mark.parametrize("token", [-1, 10, 2**31 - 1])
def test_logit_bias_outside_the_vocabulary_is_refused(token: int) -> None:
    SamplingParams(logit_bias={0: 1.0, 9: 1.0}).check_vocabulary(10)
    with pytest.raises(InvalidRequest, match=f"names token {token}"):
        SamplingParams(logit_bias={token: 1.0}).check_vocabulary(10)


@pytest.mark.parametrize(
    ("field", "inside", "outside"),
    [
        ("seed", [0, 2**63, MAX_SEED], [-1, MAX_SEED + 1]),
        ("logprobs", [None, 0, MAX_LOGPROBS], [-1, MAX_LOGPROBS + 1]),
        ("generated_from", [0, 1, 2**31 - 1], [-1]),
    ],
)
def test_a_draw_checks_its_fields(field: str, inside: list[int], outside: list[int]) -> None:
    plain = {"sampling": SamplingParams(), "seed": 0, "generated_from": 0}
    for value in inside:
        assert getattr(Draw(**(plain | {field: value})), field) == value
    for value in outside:
        with pytest.raises(InvalidRequest) as refused:
            Draw(**(plain | {field: value}))
        assert refused.value.field == field


def test_nouns_cannot_be_changed() -> None:
    for noun in (SamplingParams(), Proposal(0), Step(0, (1,)), Verdict(1, 0, (2,))):
        name = noun.__slots__[0]
        with pytest.raises(AttributeError):
            setattr(noun, name, 1)


@given(st.lists(st.integers(0, 2), max_size=7), st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_decide_counts_the_agreed_prefix(proposed: list[int], drawn: list[int]) -> None:
    agreed = decide(proposed, drawn)
    assert proposed[:agreed] == drawn[:agreed]
    assert agreed == len(proposed) or proposed[agreed] != drawn[agreed]


STEP = Step(4, (7, 8), (1, 2))


@pytest.mark.parametrize(
    ("verdict", "answers"),
    [
        (Verdict(6, 0, (9,)), True),
        (Verdict(6, 1, (1, 9)), True),
        (Verdict(6, 2, (1, 2, 9)), True),
        (Verdict(5, 0, (9,)), False),
        (Verdict(6, 1, (9,)), False),
        (Verdict(6, 1, (2, 9)), False),
        (Verdict(6, 0, (1, 2)), False),
        (Verdict(6, 3, (1, 2, 9, 9)), False),
        (Verdict(6, 0, ()), False),
        (Verdict(6, -1, ()), False),
        (Verdict(6, -2, ()), False),
        (Verdict(6, 1, (1, 2), verified=1), True),
        (Verdict(6, 0, (1,), verified=0), True),
        (Verdict(6, 1, (1, 9), verified=2), True),
        (Verdict(6, 1, (1, 9), verified=0), False),
        (Verdict(6, 2, (1, 2, 9), verified=3), False),
        (Verdict(6, 0, (9,), verified=-1), False),
    ],
)
def test_only_a_verdict_that_answers_its_step_passes(verdict: Verdict, answers: bool) -> None:
    if answers:
        verdict.check(STEP)
    else:
        with pytest.raises(ValueError, match="does not answer"):
            verdict.check(STEP)


def test_a_verdict_without_a_count_verified_everything() -> None:
    assert Verdict(6, 0, (9,)).verified_of(STEP) == 2
    assert Verdict(6, 0, (9,), verified=0).verified_of(STEP) == 0


def test_a_verdict_that_decides_nothing_never_passes() -> None:
    """With agreed = -1 every slice of it is empty, and it would stall the turn for ever."""
    for proposed in ((), (1,), (1, 2)):
        with pytest.raises(ValueError, match="does not answer"):
            Verdict(1, -1, ()).check(Step(0, (5,), proposed))


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20), st.lists(st.integers(0, 3), max_size=20))
def test_a_slot_is_usable_exactly_as_far_as_it_holds_the_tokens(
    held: list[int], tokens: list[int]
) -> None:
    usable = usable_length(len(held), tokens_digest(held), tokens)
    assert usable == (len(held) if tokens[: len(held)] == held else 0)


def test_the_digest_is_of_little_endian_words() -> None:
    assert tokens_digest(()).hex() == "cae66941d9efbd404e4d88758ea67670"
    assert tokens_digest((1,)) != tokens_digest((1 << 24,)) != tokens_digest((1, 0))
