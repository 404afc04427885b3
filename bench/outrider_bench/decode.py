"""The suite `decode`: one session at a time, Outrider in all its configurations beside its peers.

Every system runs every task once, one after the other, in an order that is shuffled anew for each task: no
system always runs after the same one. Nothing else runs meanwhile.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import outrider
from outrider_server.core.errors import StartupError

from .decode_lines import decode_lines, draw_series
from .fleet import FleetOptions, OutriderSystem, running_fleet
from .formula import RUN_AHEAD, SYNCHRONOUS, FixedPace
from .models import Models
from .peers import Contestant, running_peers
from .prompts import Prompts
from .results import SuiteResult, count_differences, degraded_notes
from .settings import BenchSettings
from .tasks import Measurement, System, Task

SETTLE_SECONDS = 0.3
"""Between two systems: idle threads of a numerical library spin for a while after their work."""

TRIES = 6
"""Candidates looked at for each task that is wanted."""

PACES = (
    FixedPace(SYNCHRONOUS, 2),
    FixedPace(SYNCHRONOUS, 4),
    FixedPace(SYNCHRONOUS, 7),
    FixedPace(RUN_AHEAD, 4),
    FixedPace(RUN_AHEAD, 7),
)

Report = Callable[[str], None]


def outrider_systems(client: outrider.AsyncClient, with_draft: bool = True) -> list[OutriderSystem]:
    """What a user may choose, and with a draft the paces that the formula is held against."""
    modes: tuple[outrider.DraftMode, ...] = ("auto", "model", "ngram", "off")
    chosen = [
        OutriderSystem(f"outrider {draft}", client, draft)
        for draft in modes
        if with_draft or draft != "model"
    ]
    if not with_draft:
        return chosen
    pinned = [OutriderSystem(pace.name, client, "model", pace.window, pace.loop) for pace in PACES]
    return chosen + pinned


async def run_decode(settings: BenchSettings, models: Models, report: Report) -> SuiteResult:
    """Measures one session. Raises StartupError."""
    result = SuiteResult("decode")
    prompts = Prompts.of(models.target)
    options = FleetOptions(
        models.target,
        models.draft,
        context=models.context_for(settings.tokens),
        engine_options=settings.peers.weights.options,
    )
    report("decode: starting the services")
    async with running_fleet(options) as fleet, outrider.AsyncClient(fleet.address) as client:
        ours = outrider_systems(client, models.draft is not None)
        tasks = {
            temperature: await full_tasks(ours[0], prompts, settings, temperature)
            for temperature in settings.temperatures
        }
        report("decode: starting the peers")
        async with running_peers(settings.peers, models, options.context, report) as peers:
            for temperature in settings.temperatures:
                chosen = [await _chosen(peer, prompts, temperature) for peer in peers]
                systems: list[System] = [*ours, *chosen]
                report(f"decode: {len(systems)} systems at temperature {temperature:g}")
                result.measurements += await interleave(systems, tasks[temperature], report)
    result.differences = count_differences(result.measurements)
    result.notes = degraded_notes(result.measurements)
    result.lines = decode_lines(result.measurements, settings.temperatures, PACES)
    result.series = draw_series(result.measurements, settings.temperatures, PACES)
    return result


async def full_tasks(
    system: OutriderSystem, prompts: Prompts, settings: BenchSettings, temperature: float
) -> list[Task]:
    """Tasks whose reply does not end before its length, so that all systems generate as much.

    Trying them warms the services up. Raises StartupError where too few replies are long enough.
    """
    found: list[Task] = []
    for attempt in range(TRIES * settings.prompts):
        name, prompt = prompts.take()
        task = Task(name, prompt, settings.tokens, temperature, seed=attempt + 1)
        outcome = await system.run(task)
        if len(outcome.tokens) == settings.tokens:
            found.append(task)
        if len(found) == settings.prompts:
            return found
    raise StartupError(
        f"only {len(found)} of {TRIES * settings.prompts} replies at temperature {temperature:g} "
        f"reach {settings.tokens} tokens; ask for fewer tokens"
    )


async def _chosen(peer: Contestant, prompts: Prompts, temperature: float) -> System:
    """The contestant's fastest setting at this temperature."""
    name, prompt = prompts.take()
    return await peer.fastest(Task(name, prompt, 48, temperature, seed=1))


async def interleave(
    systems: Sequence[System], tasks: Sequence[Task], report: Report
) -> list[Measurement]:
    """Every system runs every task, in an order of its own for each task. Raises StartupError."""
    measurements = []
    for index, task in enumerate(tasks):
        for system in random.Random(index).sample(systems, len(systems)):
            await asyncio.sleep(SETTLE_SECONDS)
            outcome = await system.run(task)
            if len(outcome.tokens) != task.tokens:
                raise StartupError(
                    f"{system.name} gave {len(outcome.tokens)} tokens of {task.tokens}"
                )
            measurements.append(Measurement(system.name, task, outcome))
        report(f"  {task.name}: done, {index + 1} of {len(tasks)}")
    return measurements
