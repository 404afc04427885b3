"""Replies played anew in virtual time: timelines by hand, and the simulator of the pacing beside it."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from statistics import fmean

import pytest
from outrider_bench.pair.forecast import foretold
from outrider_bench.pair.machine import Machine
from outrider_bench.pair.replay import MODES, replay
from outrider_bench.pair.replied import Reply
from outrider_bench.pair.virtual_time import run_virtually
from outrider_server.pacing.estimates import AgreementEstimate
from outrider_server.pacing.pacer import Pacer

from tests.speculation.simulator import simulate_adaptive

from .pairs import PROMPT, pair_times, reply


def in_runs(seed: int, length: int = 400, stays: float = 0.85) -> str:
    """Agreement that comes in runs."""
    source, now, found = random.Random(seed), True, ""
    for _ in range(length):
        now = now if source.random() < stays else not now
        found += "01"[now]
    return found


def test_virtual_time_passes_at_once_and_in_order() -> None:
    async def wait() -> tuple[float, list[int]]:
        order: list[int] = []

        async def note(hours: int) -> None:
            await asyncio.sleep(3600.0 * hours)
            order.append(hours)

        await asyncio.gather(note(2), note(1))
        return asyncio.get_running_loop().time(), order

    assert run_virtually(wait()) == (7200.0, [1, 2])


def test_waiting_for_what_never_comes_ends() -> None:
    with pytest.raises(RuntimeError, match="nothing is left to wait for"):
        run_virtually(asyncio.Event().wait())


def test_alone_a_token_takes_a_step_and_what_is_outside_it() -> None:
    """0.5 ms to open the session, then 10 rounds of 10 ms and 0.5."""
    (found,) = replay([reply("1" * 10)], pair_times(), "off")
    assert (found.tokens, found.rounds) == (10, 10)
    assert found.total_ms == pytest.approx(0.5 + 10 * 10.5)
    assert found.by_source == {"draft": 0, "ngram": 0, "target": 10}


def test_a_prompt_is_read_before_the_first_token() -> None:
    times = pair_times()
    times = replace(times, target=replace(times.target, prefill_ms=100.0))
    (found,) = replay([reply("1")], times, "off")
    assert found.total_ms == pytest.approx(0.5 + 100 * (len(PROMPT) - 1) + 10.5)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_decides_the_whole_reply(mode: str) -> None:
    replies = [reply(in_runs(seed, 60)) for seed in range(3)]
    found = replay(replies, pair_times(slower=1.3), mode, 2.0)
    for one, of in zip(found, replies, strict=True):
        assert one.tokens == len(of.tokens) == sum(one.by_source.values())


def test_a_draft_that_always_agrees_brings_what_its_pace_allows() -> None:
    """Guesses of 1 ms beside steps of 10: rounds of 8 tokens as soon as the loop has found that out."""
    (found,) = replay([reply("1" * 400)], pair_times(), "model")
    assert found.total_ms < 400 / 8 * 10.5 * 1.3
    assert found.by_source["draft"] > 330


def test_a_draft_that_never_agrees_costs_little() -> None:
    never = [reply("0" * 400)]
    alone, auto = (replay(never, pair_times(), mode)[0].total_ms for mode in ("off", "auto"))
    assert alone <= auto < 1.15 * alone


def test_n_grams_need_no_draft() -> None:
    told = reply("0" * 400)
    again = replace(told, tokens=(told.tokens[:8] * 50))
    alone, ngram = (replay([again], pair_times(), mode)[0].total_ms for mode in ("off", "ngram"))
    assert ngram < alone / 5


def test_a_draft_further_away_is_no_faster() -> None:
    replies = [reply(in_runs(seed)) for seed in range(4)]
    near, far = (
        sum(turn.total_ms for turn in replay(replies, pair_times(), "model", distance))
        for distance in (0.0, 20.0)
    )
    assert near < far


@pytest.mark.parametrize(
    ("verify_ms", "draft_ms", "way_ms"),
    [(10, 0.5, 0), (10, 3, 0), (10, 0.5, 5), (3.5, 0.47, 0), (3.5, 0.47, 1), (2, 2, 0)],
)
def test_the_replay_is_what_the_simulator_of_the_pacing_says(
    verify_ms: float, draft_ms: float, way_ms: float
) -> None:
    """Within 5 %: the simulator knows all costs from the start. A session begins with what others learnt."""
    times = pair_times(verify_ms, draft_ms, outside_ms=0.0, way_ms=way_ms)
    replies = [reply(in_runs(seed)) for seed in range(4)]
    played = sum(turn.total_ms for turn in replay(replies, times, "model"))
    costs = times.pacing(0.0, beside=False)
    estimates: list[AgreementEstimate] = []
    simulated = 0.0
    for one in replies:
        learnt = [estimate.value for estimate in estimates]
        estimates.append(AgreementEstimate(fmean(learnt)) if learnt else AgreementEstimate())
        simulated += simulate_adaptive(one.agreed, costs, Pacer(estimates[-1], 7)).total_ms
    assert played == pytest.approx(simulated, rel=0.05)


def test_steps_that_meet_slow_each_other_down_for_as_long_as_they_do() -> None:
    """10 ms alone and 20 beside: the draft's whole step of 4 costs the target 2 ms, and itself 2."""

    async def meet() -> list[float]:
        machine = Machine(pair_times(verify_ms=10, draft_ms=2, slower=2.0))
        return list(await asyncio.gather(machine.verify(0, 1), machine.draft(1, prefill=False)))

    assert run_virtually(meet()) == pytest.approx([12.0, 4.0])


def test_a_forecast_has_every_distance_and_compares_reply_by_reply() -> None:
    replies: list[Reply] = [
        reply("1" * 80, category="easy"),
        reply("0" * 80, category="hard", name="text 1"),
    ]
    found = foretold(replies, pair_times(), (0.0, 20.0), lambda _: None)
    assert [each.round_trip_ms for each in found] == [0.0, 20.0]
    (easy,), (hard,) = (found[0].ratios("auto", "off", name) for name in ("easy", "hard"))
    assert easy > 3 > 1.1 > hard
    assert found[0].ratios("auto", "off") == [easy, hard]
    assert found[0].by_formula > found[1].by_formula
