"""The suite `turns`: a later turn against a first one, and what many turns leave in memory."""

from __future__ import annotations

import asyncio

import outrider

from .decode import SETTLE_SECONDS, Report
from .fleet import Fleet, FleetOptions, OutriderSystem, running_fleet, warm_up
from .models import Models
from .prompts import Prompts
from .results import Line, SuiteResult
from .settings import BenchSettings
from .spread import spread
from .tasks import Measurement, Task

CONTEXT = 1500
INPUT = 32
REPLY = 16
SHORT_INPUT, SHORT_REPLY = 16, 8
TURNS_PER_SESSION = 10
MEMORY_AT = (10, 100, 1000)
"""Turns after which resident memory is read; the first is the warmed-up beginning."""


async def run_turns(settings: BenchSettings, models: Models, report: Report) -> SuiteResult:
    """Measures turns that continue sessions. Raises StartupError."""
    result = SuiteResult("turns")
    prompts = Prompts.of(models.target)
    context = min(CONTEXT, models.longest - 2 * INPUT - 2 * REPLY)
    options = FleetOptions(
        models.target, models.draft, engine_options=settings.peers.weights.options
    )
    report("turns: starting the services")
    async with (
        running_fleet(options) as fleet,
        outrider.AsyncClient(fleet.address) as client,
    ):
        system = OutriderSystem("outrider auto", client, "auto")
        await warm_up(system, Task("warm-up", prompts.take()[1], 2, 0.0, 1))
        firsts, laters = [], []
        for _ in range(settings.repeats):
            first, later = await _pair(client, system, prompts, context)
            result.measurements += [first, later]
            firsts.append(1000 * (first.outcome.first_seconds or 0.0))
            laters.append(1000 * (later.outcome.first_seconds or 0.0))
        resident = await _memory(client, system, fleet, report)
    ratios = [later / first for first, later in zip(firsts, laters, strict=True)]
    result.lines = [
        Line(f"first token of a turn of {INPUT} tokens, new session", spread(firsts), "ms"),
        Line(f"the same after {context} tokens of context", spread(laters), "ms"),
        Line("the same, ratio", spread(ratios), "x"),
        *memory_lines(resident),
    ]
    result.series = {"resident_bytes": resident}
    return result


def memory_lines(resident: dict[int, dict[str, int]]) -> list[Line]:
    """Resident memory of each service, and its growth since the first reading."""
    start = min(resident)
    return [
        Line(
            f"{service}: resident memory after {turns} turns",
            size / 2**20,
            "MiB",
            "" if turns == start else f"{(size - resident[start][service]) / 2**20:+.1f} MiB",
            1,
        )
        for turns, sizes in resident.items()
        for service, size in sizes.items()
    ]


async def _pair(
    client: outrider.AsyncClient, system: OutriderSystem, prompts: Prompts, context: int
) -> tuple[Measurement, Measurement]:
    """One input as the first turn of a session and as a later turn of a long one."""
    name, tokens = prompts.take_long(INPUT)
    task = Task(f"first turn: {name}", tokens, REPLY, 0.0, 1)
    await asyncio.sleep(SETTLE_SECONDS)
    first = Measurement(system.name, task, await system.run(task))
    session = await client.create_session()
    long_name, long_tokens = prompts.take_long(context - REPLY)
    await system.run_in(session, Task(long_name, long_tokens, REPLY, 0.0, 1))
    await asyncio.sleep(SETTLE_SECONDS)
    task = Task(f"later turn: {name}", tokens, REPLY, 0.0, 1)
    later = Measurement(system.name, task, await system.run_in(session, task))
    await session.delete()
    return first, later


async def _memory(
    client: outrider.AsyncClient, system: OutriderSystem, fleet: Fleet, report: Report
) -> dict[int, dict[str, int]]:
    """Bytes by service after each number of short turns, ten a session, each session deleted."""
    prompts = Prompts.of(fleet.options.target)
    resident: dict[int, dict[str, int]] = {}
    session = await client.create_session()
    for turn in range(1, max(MEMORY_AT) + 1):
        tokens = prompts.take_short(SHORT_INPUT)
        await system.run_in(session, Task("short", tokens, SHORT_REPLY, 0.0, turn))
        if turn in MEMORY_AT:
            resident[turn] = fleet.resident_bytes()
            report(f"turns: {turn} short turns")
        if turn % TURNS_PER_SESSION == 0:
            await session.delete()
            session = await client.create_session()
    await session.delete()
    return resident
