"""The session benchmarks over real services: few sessions of a tiny model, two slots."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import outrider
import pytest
import pytest_asyncio
from outrider_bench.arrivals import End
from outrider_bench.clients import Clients, OverloadSettings
from outrider_bench.collector import MetricsCollector, running_collector
from outrider_bench.crowd import CrowdSettings, problems, run_phase
from outrider_bench.fleet import Fleet, FleetOptions, running_fleet
from outrider_bench.idle import AT_ONCE, IdleSettings, measure_idle
from outrider_bench.idle import problems as idle_problems
from outrider_bench.prompts import Prompts
from outrider_bench.talks import Talk, make_talks, rehearsed
from outrider_bench.visits import Kind
from services.tiny_models import save_model

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="module")]

SLOTS, QUEUE = 2, AT_ONCE
PARK_BYTES = 160_000
"""For about five sessions of 60 tokens, 512 bytes each."""
CROWD = CrowdSettings(
    sessions=12,
    slots=SLOTS,
    at_once=SLOTS,
    talks=3,
    first_tokens=24,
    later_tokens=4,
    reply_tokens=6,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def collector() -> AsyncIterator[MetricsCollector]:
    async with running_collector() as collector:
        yield collector


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def fleet(folder: Path, collector: MetricsCollector) -> AsyncIterator[Fleet]:
    options = FleetOptions(
        folder,
        folder,
        slots=SLOTS,
        engine_options=("--compile=off", "--threads=1"),
        target_options=(f"--park-memory={PARK_BYTES}B", f"--queue={QUEUE}"),
        variables=collector.variables,
    )
    async with running_fleet(options) as fleet:
        yield fleet


@pytest_asyncio.fixture(loop_scope="module")
async def client(fleet: Fleet) -> AsyncIterator[outrider.AsyncClient]:
    """A client of services without sessions, which it leaves without sessions."""
    async with outrider.AsyncClient(fleet.address, resume_ms=0) as client:
        yield client
        for session in [info.id async for info in client.sessions()]:
            await client.delete_session(session)


def talks_of(folder: Path) -> list[Talk]:
    return make_talks(Prompts.of(folder), CROWD.talks, CROWD.turns, 24, 4, 6)


@pytest.mark.parametrize("at_once", [1, SLOTS])
async def test_a_crowd_is_right_and_reads_again_only_what_was_dropped(
    at_once: int, client: outrider.AsyncClient, collector: MetricsCollector, folder: Path
) -> None:
    """Who was restored is known for certain only where no two openings can change places on their way."""
    talks = await rehearsed(client, talks_of(folder))
    settings = dataclasses.replace(CROWD, at_once=at_once)
    phase = await run_phase(settings, client, collector, talks, PARK_BYTES)
    assert problems(phase) == []
    kinds = Counter(turn.kind for turn in phase.turns)
    assert kinds.total() == CROWD.sessions * CROWD.turns
    assert kinds[Kind.FIRST] == CROWD.sessions
    assert min(kinds[kind] for kind in (Kind.RESIDENT, Kind.RESTORED, Kind.REBUILT)) > 0
    if at_once == 1:
        assert kinds[Kind.RESTORED] == phase.counted["restored"]


async def test_a_crowd_that_is_answered_otherwise_is_a_problem(
    client: outrider.AsyncClient, collector: MetricsCollector, folder: Path
) -> None:
    wrong = [
        dataclasses.replace(talk, expected=tuple((-1,) for _ in talk.turns))
        for talk in talks_of(folder)
    ]
    phase = await run_phase(CROWD, client, collector, wrong, PARK_BYTES)
    assert problems(phase) == [
        f"{CROWD.sessions * CROWD.turns} turns gave other tokens than the session alone"
    ]


async def test_turns_that_come_at_once_finish_or_are_told_when_to_come_back(
    client: outrider.AsyncClient, fleet: Fleet, folder: Path
) -> None:
    settings = OverloadSettings(
        slots=SLOTS, queue=QUEUE, seconds=1.0, ramp_seconds=0.0, prompt_tokens=8, reply_tokens=8
    )
    clients = Clients(settings, fleet, client, Prompts.of(folder))
    closed = await clients.closed(SLOTS)
    assert {turn.end for turn in closed.turns} == {End.FINISHED}
    assert all(len(turn.arrivals) > 0 for turn in closed.turns)
    flood = await clients.open(400.0, 1.0, retries=False)
    ends = Counter(turn.end for turn in flood.turns)
    assert ends.total() == len(flood.turns) > 300
    assert set(ends) == {End.FINISHED, End.REFUSED}
    assert sum(turn.refusals_without_delay for turn in flood.turns) == 0
    assert all(turn.refusals for turn in flood.turns if turn.end is End.REFUSED)


async def test_idle_sessions_go_on_with_the_same_tokens(
    client: outrider.AsyncClient, fleet: Fleet, folder: Path
) -> None:
    settings = IdleSettings(sessions=30, with_turn=10, asked=8, talks=3)
    said: list[str] = []
    found = await measure_idle(settings, fleet, client, talks_of(folder), said.append)
    assert idle_problems(found) == []
    assert [reading.sessions for reading in found.readings] == [0, 30, 10]
    assert all(
        reading.resident.keys() == {"target", "draft", "session"} for reading in found.readings
    )
    turns = [info.turn_count async for info in client.sessions()]
    assert sorted(Counter(turns).items()) == [(0, 16), (1, 10), (2, 4)]
