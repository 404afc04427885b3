"""The target's job: the verdict is what the target would have decided alone, and a repeat is safe."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import VOCABULARY_SIZE, tiny_engine, tiny_llama
from outrider_server.core.errors import (
    InvalidRequest,
    NonFiniteLogits,
    OutriderError,
    PositionMismatch,
    StaleEpoch,
)
from outrider_server.core.types import Draw, SamplingParams, Step, Verdict
from outrider_server.engine.engine import Engine, OpenedSlot
from outrider_server.engine.verifying import Verified, VerifyJob

ENGINE = tiny_engine()
PROMPT = tuple(range(5, 45))
DRAW = Draw(SamplingParams(temperature=1.0, top_p=0.95, frequency_penalty=0.2), 7, len(PROMPT))


def opened(name: str, length: int = 96, engine: Engine = ENGINE, draw: Draw = DRAW) -> OpenedSlot:
    slot = engine.open(name, 1, length, draw)
    engine.table.close(slot.slot, slot.opening)
    return slot


def run(slot: OpenedSlot, step: Step, engine: Engine = ENGINE) -> Verified:
    """Runs a job as the device thread does. Raises what it fails with."""
    job = VerifyJob(engine, slot.slot, slot.opening, step)
    while not job.done:
        try:
            work = job.work()
        except OutriderError as error:
            job.fail(error)
            break
        row = (slot.slot, work.start_position, work.tokens)
        if work.prefill:
            assert len(work.tokens) <= engine.limits.prefill_width
            engine.prefill(*row)
            job.take(work, None, 1, 0.0)
        else:
            assert len(work.tokens) <= engine.limits.width
            job.take(work, engine.decide([row]).rows[0], 1, 0.0)
    return job.outcome.result(0)


def alone(prompt: Sequence[int], count: int, draw: Draw = DRAW) -> tuple[int, ...]:
    """What the target writes without a draft."""
    slot, tokens, start = opened("alone", 0, draw=draw), list(prompt), 0
    for _ in range(count):
        verdict = run(slot, Step(start, tuple(tokens[start:]))).verdict
        start = len(tokens)
        tokens += verdict.tokens
    return tuple(tokens[len(prompt) :])


ANSWER = alone(PROMPT, 8)


@pytest.mark.parametrize("right", range(8))
def test_agreed_tokens_are_counted_up_to_the_first_wrong_one(right: int) -> None:
    proposed = list(ANSWER[:7])
    if right < 7:
        proposed[right] = (proposed[right] + 1) % VOCABULARY_SIZE
    verdict = run(opened("a", 0), Step(0, PROMPT, tuple(proposed))).verdict
    assert verdict == Verdict(len(PROMPT), right, ANSWER[: right + 1], verified=7)
    assert ENGINE.table.open("a", 1).tokens == [*PROMPT, *proposed[:right]]
    opened("a")


@settings(max_examples=30)
@given(st.data())
def test_any_proposals_give_the_targets_own_tokens(data: st.DataObject) -> None:
    slot, tokens, start = opened("b", 0), list(PROMPT), 0
    while len(tokens) < len(PROMPT) + 8:
        rest = ANSWER[len(tokens) - len(PROMPT) :]
        length = data.draw(st.integers(0, min(7, len(rest) - 1)))
        proposed = list(rest[:length])
        if proposed and data.draw(st.booleans()):
            proposed[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 60))
        verdict = run(slot, Step(start, tuple(tokens[start:]), tuple(proposed))).verdict
        start = len(tokens) + verdict.agreed
        tokens += verdict.tokens
    assert tuple(tokens[len(PROMPT) :]) == ANSWER[: len(tokens) - len(PROMPT)]


def test_a_step_can_be_repeated_and_a_shorter_start_rolls_back() -> None:
    slot = opened("c", 0)
    step = Step(0, PROMPT, ANSWER[:3])
    first = run(slot, step).verdict
    assert run(slot, step).verdict == first
    assert run(slot, Step(30, PROMPT[30:], ANSWER[:3])).verdict == first
    assert run(slot, Step(len(PROMPT) + 2, (ANSWER[2],))).verdict.tokens == (ANSWER[3],)
    assert run(slot, Step(len(PROMPT) - 1, PROMPT[-1:])).verdict.tokens == ANSWER[:1]


def test_a_session_rebuilt_by_prefill_goes_on_with_the_same_tokens() -> None:
    whole = PROMPT + ANSWER[:5]
    assert run(opened("d", 0), Step(0, whole)).verdict.tokens == (ANSWER[5],)


REFUSED: list[tuple[Step, type[OutriderError]]] = [
    (Step(0, ()), InvalidRequest),
    (Step(0, (1,), (1,) * 8), InvalidRequest),
    (Step(0, (VOCABULARY_SIZE,)), InvalidRequest),
    (Step(0, (-1,)), InvalidRequest),
    (Step(0, (1,), (VOCABULARY_SIZE,)), InvalidRequest),
    (Step(0, (1,), (-1,)), InvalidRequest),
    (Step(0, (1,) * 97), InvalidRequest),
    (Step(1, (1,)), PositionMismatch),
    (Step(-1, (1,)), PositionMismatch),
]


@pytest.mark.parametrize(("step", "error"), REFUSED)
def test_a_step_that_cannot_run_is_refused_before_it_touches_the_slot(
    step: Step, error: type[OutriderError]
) -> None:
    slot = opened("e", 0)
    before = ENGINE.counters.prefill_steps, ENGINE.counters.verify_steps
    with pytest.raises(error):
        run(slot, step)
    assert (ENGINE.counters.prefill_steps, ENGINE.counters.verify_steps) == before
    assert slot.slot.tokens == []


def test_a_step_of_a_stream_that_was_taken_over_is_refused() -> None:
    old = opened("f", 0)
    opened("f", 0)
    with pytest.raises(StaleEpoch):
        run(old, Step(0, (1,)))


def test_a_context_may_end_exactly_at_the_limit() -> None:
    slot = opened("g", 0)
    limit = ENGINE.limits.max_context_tokens
    verdict = run(slot, Step(0, (3,) * (limit - 7), (3,) * 7)).verdict
    assert verdict.start_position == limit - 7
    with pytest.raises(InvalidRequest, match="the context holds 96"):
        run(slot, Step(0, (3,) * limit, (3,)))


def test_a_cancelled_outcome_ends_the_job_quietly() -> None:
    slot = opened("h", 0)
    job = VerifyJob(ENGINE, slot.slot, slot.opening, Step(0, (1,)))
    work = job.work()
    result = ENGINE.decide([(slot.slot, 0, work.tokens)]).rows[0]
    assert job.outcome.cancel()
    assert job.done
    job.take(work, result, 1, 0.0)


def poisoned_engine() -> Engine:
    """An engine whose token 13 makes every number of its row none."""
    model = tiny_llama()
    engine = tiny_engine(model)
    model.model.embed_tokens.weight.data[13] = torch.nan
    return engine


@pytest.mark.parametrize("step", [Step(0, (1, 2, 13)), Step(0, (13, *PROMPT)), Step(2, (13,))])
def test_no_number_decides_nothing_and_drops_what_the_slot_holds(step: Step) -> None:
    engine = poisoned_engine()
    slot = opened("i", 0, engine)
    run(slot, Step(0, (1, 2)), engine)
    with pytest.raises(NonFiniteLogits, match="nothing was decided"):
        run(slot, step, engine)
    assert len(slot.slot.tokens) <= step.start_position


def test_no_number_of_one_session_reaches_the_next_one_in_its_slot() -> None:
    """A masked key still meets the sum as 0 times its value, which no number survives."""
    engine = poisoned_engine()
    wanted = run(opened("j", 0, engine), Step(0, (1, 2, 3)), engine).verdict
    for name in "klmn":
        slot = opened(name, 0, engine)
        with pytest.raises(NonFiniteLogits):
            run(slot, Step(0, (13,) * 60), engine)
    for name in "opqr":
        assert run(opened(name, 0, engine), Step(0, (1, 2, 3)), engine).verdict == wanted


@pytest.mark.parametrize("prefill", [True, False])
def test_a_step_that_fails_midway_leaves_no_token_that_it_may_have_overwritten(
    prefill: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = opened("s", 0)
    run(slot, Step(0, PROMPT))

    def fails(*_: object) -> None:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(ENGINE.runner, "prefill" if prefill else "decide", fails)
        with pytest.raises(RuntimeError):
            run(slot, Step(10, (1,) * 20 if prefill else (1,)))
    assert slot.slot.tokens == list(PROMPT[:10])
    assert run(slot, Step(10, PROMPT[10:])).verdict.tokens == ANSWER[:1]
