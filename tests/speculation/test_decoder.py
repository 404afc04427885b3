"""Both decode loops over a fake target: the tokens are the target's, whatever the draft does."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace

import pytest
from fakes import HashVerifier, LengthEnd, ListRecorder, ScriptedDrafter, continuation
from hypothesis import given, settings
from hypothesis import strategies as st
from outrider_server.core.costs import GuessCost
from outrider_server.core.errors import NonFiniteLogits
from outrider_server.core.types import FinishReason, Proposal, Round, Step, TokenSource, Verdict
from outrider_server.speculation.decoder import ROUNDS_AHEAD, decode_ahead, decode_synchronously
from outrider_server.speculation.drafters import ComposedDrafter, NoDrafter
from outrider_server.speculation.ngram import NgramDrafter
from outrider_server.speculation.ports import Drafter
from outrider_server.speculation.turn import Turn

LOOPS = (decode_synchronously, decode_ahead)
PROMPT = (3, 1, 4, 1, 0)
DRAFTERS: dict[str, Callable[[], Drafter]] = {
    "none": NoDrafter,
    "perfect": lambda: ScriptedDrafter(PROMPT),
    "random": lambda: ScriptedDrafter(PROMPT, error_rate=0.4),
    "adversarial": lambda: ScriptedDrafter(PROMPT, error_rate=1.0),
    "behind its position": lambda: ScriptedDrafter(PROMPT, offset=-1),
    "ahead of its position": lambda: ScriptedDrafter(PROMPT, offset=2),
    "dying in the middle": lambda: ScriptedDrafter(PROMPT, dies_at=12),
    "slow": lambda: ScriptedDrafter(PROMPT, error_rate=0.2, checkpoints=9),
    "longer than asked": lambda: ScriptedDrafter(PROMPT, longer=4),
    "n-gram": lambda: NgramDrafter(PROMPT),
    "composed": lambda: ComposedDrafter(
        NgramDrafter(PROMPT), ScriptedDrafter(PROMPT, error_rate=0.5)
    ),
}


def a_turn(window: int = 4, count: int = 20, end_token: int | None = None, known: int = 0) -> Turn:
    return Turn(PROMPT, known, window, LengthEnd(count, end_token), count)


def tokens_of(rounds: Sequence[Round]) -> tuple[int, ...]:
    return tuple(itertools.chain.from_iterable(decided.tokens for decided in rounds))


def assert_gap_free(rounds: Sequence[Round]) -> None:
    position = len(PROMPT)
    for decided in rounds:
        assert decided.start_position == position
        assert len(decided.tokens) == len(decided.sources) == len(decided.texts)
        position += len(decided.tokens)


async def collect(loop: Callable[..., AsyncIterator[Round]], *parts: object) -> list[Round]:
    shown: list[Round] = []
    await show(loop, shown, *parts)
    return shown


async def show(
    loop: Callable[..., AsyncIterator[Round]], shown: list[Round], *parts: object
) -> None:
    """Appends what the loop yields, so that it can be seen even if the loop raises."""
    async for decided in loop(*parts):
        shown.append(decided)  # noqa: PERF401 - a list made at once would be lost with the error


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("window", range(8))
@pytest.mark.parametrize("character", DRAFTERS)
async def test_tokens_are_those_of_the_target_alone(
    loop: Callable[..., AsyncIterator[Round]], window: int, character: str
) -> None:
    turn, verifier, recorder = a_turn(window), HashVerifier(), ListRecorder()
    rounds = await collect(loop, turn, verifier, DRAFTERS[character](), recorder)
    assert tokens_of(rounds) == continuation(PROMPT, 20)
    assert rounds == recorder.rounds
    assert_gap_free(rounds)
    assert turn.finish_reason is FinishReason.LENGTH
    assert all(len(step.proposed_tokens) <= window for step in verifier.steps)


@settings(max_examples=60)
@given(
    window=st.integers(0, 7),
    count=st.integers(1, 24),
    error_rate=st.floats(0, 1),
    seed=st.integers(0, 999),
    offset=st.sampled_from([0, 0, 0, -1, 1]),
    dies_at=st.none() | st.integers(5, 30),
    delays=st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)),
    end_token=st.none() | st.integers(0, 4),
    known=st.integers(0, 5),
)
def test_any_draft_at_any_pace_gives_the_same_tokens_in_both_loops(
    window: int,
    count: int,
    error_rate: float,
    seed: int,
    offset: int,
    dies_at: int | None,
    delays: tuple[int, int, int],
    end_token: int | None,
    known: int,
) -> None:
    expected = continuation(PROMPT, count)
    if end_token in expected:
        expected = expected[: expected.index(end_token) + 1]

    async def run(loop: Callable[..., AsyncIterator[Round]]) -> None:
        drafter = ScriptedDrafter(PROMPT, error_rate, seed, offset, dies_at, delays[0])
        verifier = HashVerifier(PROMPT[:known], delays[1])
        recorder = ListRecorder(checkpoints=delays[2])
        turn = a_turn(window, count, end_token, known)
        rounds = []
        async for decided in loop(turn, verifier, drafter, recorder):
            rounds.append(decided)
            recorded = recorder.rounds[: len(rounds)]
            assert recorded == rounds, "recorded before it is shown, in order, none skipped"
        assert tokens_of(rounds) == expected
        assert_gap_free(rounds)
        assert drafter.tokens == [*PROMPT, *expected]

    for loop in LOOPS:
        asyncio.run(run(loop))


async def test_a_perfect_draft_fills_every_window() -> None:
    for loop in LOOPS:
        rounds = await collect(
            loop, a_turn(4, 20), HashVerifier(), ScriptedDrafter(PROMPT), ListRecorder()
        )
        assert [len(decided.tokens) for decided in rounds] == [5, 5, 5, 5]
        assert rounds[0].sources == (TokenSource.DRAFT,) * 4 + (TokenSource.TARGET,)


async def test_the_plain_loop_waits_for_a_window_and_the_fast_one_for_a_guess() -> None:
    """Neither waits before the first token, nor where no proposal is of use."""
    plain, fast = ScriptedDrafter(PROMPT), ScriptedDrafter(PROMPT)
    await collect(decode_synchronously, a_turn(4, 11), HashVerifier(), plain, ListRecorder())
    await collect(decode_ahead, a_turn(4, 11), HashVerifier(), fast, ListRecorder())
    assert [minimum for _, minimum, _ in plain.taken] == [0, 4, 0]
    assert [minimum for _, minimum, _ in fast.taken] == [0, 1, 0]


async def test_the_fast_loop_verifies_while_it_records() -> None:
    verifier = HashVerifier(checkpoints=3)
    seen: list[int] = []

    class Watching(ListRecorder):
        async def record(self, rounds: Sequence[Round]) -> None:
            seen.append(len(rounds))
            await slow.wait()
            await super().record(rounds)

    slow = asyncio.Event()
    decoding = asyncio.create_task(
        collect(decode_ahead, a_turn(0, 30), verifier, NoDrafter(), Watching())
    )
    while len(verifier.steps) < ROUNDS_AHEAD:  # noqa: ASYNC110 - the loop under test has no event to wait for
        await asyncio.sleep(0)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(verifier.steps) == ROUNDS_AHEAD, "it does not run away from the ledger"
    slow.set()
    await decoding
    assert seen[:2] == [1, ROUNDS_AHEAD - 1], "what waited is written together"
    assert sum(seen) == 30


@pytest.mark.parametrize("rounds_seen", [1, 2, 3])
async def test_closing_the_fast_loop_cancels_the_verify_in_flight(rounds_seen: int) -> None:
    verifier, recorder = HashVerifier(checkpoints=50), ListRecorder(checkpoints=3)
    stream = decode_ahead(a_turn(0, 9), verifier, NoDrafter(), recorder)
    for _ in range(rounds_seen):
        await anext(stream)
    before = asyncio.all_tasks()
    await stream.aclose()
    assert verifier.cancelled == 1
    assert asyncio.all_tasks() < before, "no task is left behind"
    assert len(recorder.rounds) == rounds_seen


async def test_cancelling_the_caller_cancels_the_verify_it_waits_for() -> None:
    verifier, recorder = HashVerifier(checkpoints=10**6), ListRecorder()
    caller = asyncio.create_task(collect(decode_ahead, a_turn(), verifier, NoDrafter(), recorder))
    await verifier.started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert verifier.cancelled == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert recorder.rounds == []


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("fail_at", [0, 2])
async def test_nothing_more_is_shown_once_recording_fails(
    loop: Callable[..., AsyncIterator[Round]], fail_at: int
) -> None:
    recorder = ListRecorder(fail_at)
    shown: list[Round] = []
    verifier = HashVerifier(checkpoints=3)
    with pytest.raises(OSError, match="disk is full"):
        await show(loop, shown, a_turn(2), verifier, ScriptedDrafter(PROMPT), recorder)
    assert shown == recorder.rounds
    assert len(shown) == fail_at
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.parametrize("loop", LOOPS)
async def test_an_error_of_the_target_leaves_the_rounds_before_it(
    loop: Callable[..., AsyncIterator[Round]],
) -> None:
    class Failing(HashVerifier):
        async def verify(self, step: Step) -> Verdict:
            if len(self.steps) == 2:
                raise NonFiniteLogits("no number")
            return await super().verify(step)

    recorder = ListRecorder()
    shown: list[Round] = []
    with pytest.raises(NonFiniteLogits):
        await show(loop, shown, a_turn(0), Failing(), NoDrafter(), recorder)
    assert tokens_of(shown) == continuation(PROMPT, 2)
    assert shown == recorder.rounds


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_verdict_that_does_not_answer_ends_the_turn_without_a_token(
    loop: Callable[..., AsyncIterator[Round]],
) -> None:
    class Lying(HashVerifier):
        async def verify(self, step: Step) -> Verdict:
            return Verdict(step.decided_position, -1, ())

    recorder = ListRecorder()
    with pytest.raises(ValueError, match="does not answer"):
        await collect(loop, a_turn(), Lying(), NoDrafter(), recorder)
    assert recorder.rounds == []


class SpendingDrafter(ScriptedDrafter):
    """Says with each proposal what it cost, and writes down when it hears of a round."""

    def __init__(self, log: list[str]) -> None:
        super().__init__(PROMPT, error_rate=0.3)
        self._log = log

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        proposal = await super().take(position, minimum, maximum)
        return replace(proposal, waited_ms=4.0, spent=(GuessCost(2, 6.0, None),))

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        super().commit(start_position, tokens)
        self._log.append("drafter")


class ListMeter:
    """Keeps the rounds that it is told of."""

    def __init__(self, log: list[str]) -> None:
        self.rounds: list[Round] = []
        self._log = log

    def observe(self, decided: Round) -> None:
        self.rounds.append(decided)
        self._log.append("meter")


@pytest.mark.parametrize("loop", LOOPS)
async def test_each_round_says_where_its_time_went_before_the_drafter_hears_of_it(loop) -> None:
    ticks = itertools.count(0.0, 0.010)  # the clock is read before a step and after its verdict
    log: list[str] = []

    class SlowVerifier(HashVerifier):
        async def verify(self, step: Step) -> Verdict:
            return replace(await super().verify(step), step_ms=7.0, prefill_ms=2.0)

    meter, drafter = ListMeter(log), SpendingDrafter(log)
    parts = (SlowVerifier(), drafter, ListRecorder(), meter, lambda: next(ticks))
    rounds = await collect(loop, a_turn(), *parts)
    assert meter.rounds == rounds
    assert log == ["meter", "drafter"] * len(rounds)
    assert len(rounds) > 2
    for number, decided in enumerate(rounds):
        cost = decided.cost
        assert cost.since_ms == (pytest.approx(20.0) if number else None)
        assert cost.verify_ms == pytest.approx(10.0)
        assert (cost.step_ms, cost.prefill_ms, cost.waited_ms) == (7.0, 2.0, 4.0)
        assert cost.guesses == (GuessCost(2, 6.0, None),)
        assert decided.offered >= decided.proposed >= decided.agreed
