"""A row that was cut decides the same tokens as the whole one; who is cut is in `test_batching.py`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import tiny_engine
from outrider_server.core.errors import InvalidRequest, OutriderError
from outrider_server.core.types import Draw, SamplingParams, Step
from outrider_server.engine.engine import OpenedSlot
from outrider_server.engine.verifying import Verified, VerifyJob

ENGINE = tiny_engine()
PROMPT = tuple(range(5, 45))
DRAWS = {
    "greedy": Draw(SamplingParams(temperature=0.0), 7, len(PROMPT), logprobs=2),
    "sampled": Draw(SamplingParams(temperature=1.0, presence_penalty=0.3), 7, len(PROMPT), 2),
}


def opened(name: str, length: int, draw: Draw) -> OpenedSlot:
    slot = ENGINE.open(name, 1, length, draw)
    ENGINE.table.close(slot.slot, slot.opening)
    return slot


def verify(slot: OpenedSlot, step: Step, kept: int | None = None) -> Verified:
    """Runs a step as the device thread does, whose verify row keeps `kept` tokens."""
    job = VerifyJob(ENGINE, slot.slot, slot.opening, step)
    while not job.done:
        try:
            work = job.work()
        except OutriderError as error:
            job.fail(error)
            break
        if work.prefill:
            ENGINE.prefill(slot.slot, work.start_position, work.tokens)
            job.take(work, None, 1, 0.5)
            continue
        work = replace(work, tokens=work.tokens[:kept])
        result = ENGINE.decide([(slot.slot, work.start_position, work.tokens)]).rows[0]
        job.take(work, result, 1, 0.25)
    return job.outcome.result(0)


def answer_of(draw: Draw, count: int = 12) -> tuple[int, ...]:
    """What the target writes alone."""
    slot, tokens, start = opened("alone", 0, draw), list(PROMPT), 0
    for _ in range(count):
        verdict = verify(slot, Step(start, tuple(tokens[start:]))).verdict
        start = len(tokens)
        tokens += verdict.tokens
    return tuple(tokens[len(PROMPT) :])


ANSWERS = {name: answer_of(draw) for name, draw in DRAWS.items()}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("right", [0, 3, 7])
@pytest.mark.parametrize("kept", range(1, 9))
def test_a_cut_row_decides_the_beginning_of_what_the_whole_one_decides(
    name: str, right: int, kept: int
) -> None:
    draw, answer = DRAWS[name], ANSWERS[name]
    proposed = list(answer[:7])
    if right < 7:
        proposed[right] = (proposed[right] + 1) % 61
    step = Step(0, PROMPT, tuple(proposed), (0.5,) * 7)
    whole = verify(opened("a", 0, draw), step).verdict
    slot = opened("b", 0, draw)
    cut = verify(slot, step, kept).verdict
    assert (whole.verified, cut.verified) == (7, kept - 1)
    assert cut.agreed == min(right, kept - 1)
    assert cut.tokens == whole.tokens[: cut.agreed + 1] == answer[: cut.agreed + 1]
    assert [entry.top for entry in cut.logprobs] == [
        entry.top for entry in whole.logprobs[: len(cut.logprobs)]
    ]
    cut.check(step)
    assert slot.slot.tokens == [*PROMPT, *answer[: cut.agreed]], "what was left out is in no slot"


@settings(max_examples=25)
@given(st.data())
def test_a_text_of_cut_rows_is_the_targets_own(data: st.DataObject) -> None:
    """The turn goes on from where each cut row ended, with proposals that are right or not."""
    name = data.draw(st.sampled_from(sorted(DRAWS)))
    answer = ANSWERS[name]
    slot, tokens, start = opened("c", 0, DRAWS[name]), list(PROMPT), 0
    while len(tokens) < len(PROMPT) + len(answer):
        rest = answer[len(tokens) - len(PROMPT) :]
        proposed = list(rest[: data.draw(st.integers(0, min(7, len(rest) - 1)))])
        if proposed and data.draw(st.booleans()):
            proposed[data.draw(st.integers(0, len(proposed) - 1))] = data.draw(st.integers(0, 60))
        step = Step(start, tuple(tokens[start:]), tuple(proposed), (1.0,) * len(proposed))
        verdict = verify(slot, step, data.draw(st.integers(1, len(proposed) + 1))).verdict
        verdict.check(step)
        start = len(tokens) + verdict.agreed
        tokens += verdict.tokens
    assert tuple(tokens[len(PROMPT) :]) == answer


def test_a_row_that_lost_all_its_proposals_still_decides_one_token() -> None:
    step = Step(0, PROMPT, ANSWERS["greedy"][:3], (1.0, 1.0, 1.0))
    verdict = verify(opened("d", 0, DRAWS["greedy"]), step, kept=1).verdict
    assert (verdict.verified, verdict.agreed) == (0, 0)
    assert verdict.tokens == ANSWERS["greedy"][:1], "the very token that was left out"


def test_prefill_is_told_apart_from_the_step() -> None:
    """40 tokens of context: 39 are read in chunks of 16, the last goes with the proposals."""
    done = verify(opened("e", 0, DRAWS["greedy"]), Step(0, PROMPT))
    assert (done.prefill_seconds, done.seconds) == (1.5, 0.25)
    again = verify(opened("e", 40, DRAWS["greedy"]), Step(39, PROMPT[39:]))
    assert (again.prefill_seconds, again.seconds) == (0.0, 0.25)


def test_the_chances_of_a_step_reach_whoever_plans_it() -> None:
    slot = opened("f", 0, DRAWS["greedy"])
    job = VerifyJob(ENGINE, slot.slot, slot.opening, Step(0, (1,), (2, 3), (0.5,)))
    work = job.work()
    assert (work.tokens, work.survival) == ((1, 2, 3), (0.5,))
    job.outcome.cancel()


@pytest.mark.parametrize(
    "survival", [(float("nan"),), (1.0001,), (-0.1,), (0.5, 0.5, 0.5), (0.5, float("inf"))]
)
def test_chances_that_cannot_be_are_refused_before_anything_runs(
    survival: tuple[float, ...],
) -> None:
    steps = ENGINE.counters.verify_steps, ENGINE.counters.prefill_steps
    with pytest.raises(InvalidRequest) as refused:
        verify(opened("g", 0, DRAWS["greedy"]), Step(0, PROMPT, (1, 2), survival))
    assert refused.value.field == "survival"
    assert (ENGINE.counters.verify_steps, ENGINE.counters.prefill_steps) == steps


@pytest.mark.parametrize("survival", [(), (0.0,), (1.0, 0.0)])
def test_chances_at_the_edge_and_fewer_than_proposals_are_taken(
    survival: tuple[float, ...],
) -> None:
    step = Step(0, PROMPT, ANSWERS["greedy"][:2], survival)
    assert verify(opened("h", 0, DRAWS["greedy"]), step).verdict.agreed == 2
