"""Arrivals, goodput, and what the benchmark of overload says and refuses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import outrider
import pytest
from outrider_bench.arrivals import End, Load, TurnOutcome, load_between, poisson_arrivals
from outrider_bench.clients import Clients, Clock, OverloadSettings, Phase, has_retry_info
from outrider_bench.overload import Series, cpu_table, problems, table
from outrider_bench.prompts import Prompts
from outrider_server.core.errors import StartupError

FINISHED = TurnOutcome(End.FINISHED, (0.5, 1.0, 1.5, 2.0))
REFUSED = TurnOutcome(End.REFUSED, refusals=3)


class ScriptedReply:
    """Tokens that come, then perhaps an error."""

    def __init__(self, tokens: list[int], error: outrider.OutriderError | None) -> None:
        self.started = "begun" if tokens else None
        self.events: list[int] = []
        self._tokens, self._error = tokens, error

    async def __aiter__(self) -> AsyncIterator[int]:
        for token in self._tokens:
            self.events.append(token)
            yield token
        if self._error is not None:
            raise self._error


class ScriptedSession:
    """A session that answers each attempt of a turn as it was told to."""

    def __init__(self, *replies: ScriptedReply) -> None:
        self._replies = list(replies)
        self.asked: list[dict[str, Any]] = []

    def generate(self, prompt: tuple[int, ...], **options: Any) -> ScriptedReply:
        self.asked.append({"prompt": prompt, **options})
        return self._replies.pop(0)


async def ended(session: ScriptedSession, *, retries: bool, seconds: float = 600.0) -> TurnOutcome:
    """What comes of one turn at the beginning of a phase of so many seconds."""
    settings = OverloadSettings(seconds=seconds, ramp_seconds=0.0)
    clients: Any = Clients(settings, Any, Any, Prompts([(1, 2, 3)]))  # type: ignore[arg-type]
    turn: TurnOutcome = await clients.turn(session, Clock(), retries)
    return turn


def full(retry_after_ms: int = 1) -> outrider.ExhaustedError:
    return outrider.ExhaustedError("full", retry_after_ms=retry_after_ms)


def phase(
    what: str, *turns: TurnOutcome, tokens_per_second: float = 90.0, cpu: float = 1.25
) -> Phase:
    used = {"target": cpu, "clients": 0.1}
    return Phase(what, "x" in what, turns, Load(tokens_per_second, 2.0), 0.004, used)


def series_of(*phases: Phase) -> Series:
    series = Series()
    for each in phases:
        series.add(each)
    return series


def test_arrivals_ascend_within_their_time() -> None:
    times = poisson_arrivals(20.0, 10.0, 1)
    assert sorted(times) == list(times)
    assert 0 < times[0] <= times[-1] < 10.0


def test_arrivals_come_at_their_rate() -> None:
    """Of 20,000 that are expected 141 are one standard deviation; six of them are allowed."""
    assert abs(len(poisson_arrivals(20.0, 1000.0, 1)) - 20_000) < 6 * 141


def test_arrivals_are_the_seeds() -> None:
    assert poisson_arrivals(5.0, 10.0, 3) == poisson_arrivals(5.0, 10.0, 3)
    assert poisson_arrivals(5.0, 10.0, 3) != poisson_arrivals(5.0, 10.0, 4)


def test_goodput_counts_tokens_from_the_start_up_to_the_end_of_the_window() -> None:
    assert load_between([FINISHED], 1.0, 2.0) == Load(2.0, 0.0)
    assert load_between([FINISHED, FINISHED], 0.5, 2.5) == Load(4.0, 1.0)


def test_goodput_counts_only_turns_that_finished() -> None:
    broken = TurnOutcome(End.FAILED, (0.5, 1.0), failure="lost")
    assert load_between([broken, REFUSED], 0.0, 2.0) == Load(0.0, 0.0)


def test_the_table_compares_each_repeat_with_the_peak_of_the_same() -> None:
    """The machine is half as fast in the second repeat, which spoils no ratio."""
    few, many, flood = "2 clients in turn", "4 clients in turn", "3 x peak"
    series = series_of(
        *(phase(few, FINISHED, tokens_per_second=speed) for speed in (101.0, 40.0, 80.0)),
        *(phase(many, FINISHED, tokens_per_second=speed) for speed in (100.0, 50.0, 100.0)),
        *(
            phase(flood, FINISHED, FINISHED, REFUSED, tokens_per_second=speed, cpu=cpu)
            for speed, cpu in ((80.0, 1.0), (45.0, 1.5), (95.0, 2.0))
        ),
    )
    assert series.peak == many
    assert table(series).splitlines()[2:] == [
        "| 2 clients in turn | 3 | 3 | 0 | 0 | 0 | 80 | 0.80 [0.80-1.01] |",
        "| 4 clients in turn | 3 | 3 | 0 | 0 | 0 | 100 | 1.00 [1.00-1.00] |",
        "| 3 x peak | 9 | 6 | 9 | 0 | 0 | 80 | 0.90 [0.80-0.95] |",
    ]
    assert cpu_table(series).splitlines()[-1] == "| 3 x peak | 1.50 | 0.10 | 4 |"


def test_failures_and_refusals_without_a_time_are_problems() -> None:
    rude = TurnOutcome(End.REFUSED, refusals=2, refusals_without_delay=1)
    broken = TurnOutcome(End.FAILED, failure="InternalError after 3 tokens: no")
    assert problems(series_of(phase("1 x peak", FINISHED, REFUSED))) == []
    phases = phase("1 x peak", FINISHED, rude), phase("1 x peak", FINISHED, broken)
    assert problems(series_of(*phases)) == [
        "1 x peak: 1 refusals without RetryInfo",
        "1 x peak: InternalError after 3 tokens: no",
    ]


def test_a_time_that_the_sdk_made_up_is_no_retry_info() -> None:
    assert not has_retry_info(outrider.ExhaustedError("full"))


async def test_a_turn_that_is_refused_asks_the_same_again() -> None:
    session = ScriptedSession(
        ScriptedReply([], full()), ScriptedReply([], full()), ScriptedReply([7, 8], None)
    )
    turn = await ended(session, retries=True)
    assert (turn.end, len(turn.arrivals)) == (End.FINISHED, 2)
    assert (turn.refusals, turn.refusals_without_delay) == (2, 2)
    assert session.asked[0] == session.asked[1] == session.asked[2]


@pytest.mark.parametrize(("retries", "delay_ms"), [(False, 1), (True, 1_000)])
async def test_a_turn_that_may_not_come_back_in_time_stays_refused(
    retries: bool, delay_ms: int
) -> None:
    session = ScriptedSession(ScriptedReply([], full(delay_ms)))
    turn = await ended(session, retries=retries, seconds=1.0)
    assert (turn.end, turn.refusals, turn.failure) == (End.REFUSED, 1, "")


class FullService:
    """Client and services in one: refuses every turn, for a second."""

    def __init__(self) -> None:
        self.sessions: list[ScriptedSession] = []

    async def create_session(self) -> ScriptedSession:
        self.sessions.append(ScriptedSession(ScriptedReply([], full(1_000))))
        return self.sessions[-1]

    def cpu_seconds(self) -> dict[str, float]:
        return {}


async def test_clients_that_are_refused_do_not_ask_before_their_time() -> None:
    service: Any = FullService()
    settings = OverloadSettings(seconds=0.2, ramp_seconds=0.0)
    clients = Clients(settings, service, service, Prompts([(1, 2, 3)]))
    phase = await clients.closed(3)
    assert [turn.end for turn in phase.turns] == [End.REFUSED] * 3


async def test_every_phase_asks_for_the_same_turns() -> None:
    service: Any = FullService()
    settings = OverloadSettings(seconds=0.2, ramp_seconds=0.0, prompt_tokens=2)
    clients = Clients(settings, service, service, Prompts([tuple(range(50))]))
    await clients.closed(3)
    await clients.open(20.0, 1.0, retries=False)
    asked = [turn for session in service.sessions for turn in session.asked]
    assert len(asked) > 3
    assert asked[:3] == asked[3:6]
    assert asked[0] != asked[1]


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        ([], outrider.UnavailableError("gone")),
        ([7], outrider.UnavailableError("gone")),
        ([7], full()),
    ],
)
async def test_any_other_end_is_a_failure_and_so_is_a_refusal_after_the_start(
    tokens: list[int], error: outrider.OutriderError
) -> None:
    turn = await ended(ScriptedSession(ScriptedReply(tokens, error)), retries=True)
    assert (turn.end, turn.arrivals, turn.refusals) == (End.FAILED, (), 0)
    assert turn.failure == f"{type(error).__name__} after {len(tokens)} tokens: {error}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"slots": 0}, "slots must be at least 1"),
        ({"repeats": 0}, "repeats must be at least 1"),
        ({"queue": -1}, "queue must be at least 0"),
        ({"loads": ()}, "loads must be numbers above 0"),
        ({"loads": (1.0, float("nan"))}, "loads must be numbers above 0"),
        ({"seconds": 5.0}, "ramp seconds must be at least 0 and less than seconds"),
        ({"seconds": float("inf")}, "ramp seconds must be at least 0 and less than seconds"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        OverloadSettings(**changes)  # type: ignore[arg-type]
