"""The suite `network`: the draft behind a delay, from none to a continent away.

One session service for each round trip, all on the same target and draft, so that each has learnt its own
draft's distance. Speculation off needs no draft and is measured once a task.
"""

from __future__ import annotations

from contextlib import AsyncExitStack

import outrider

from .decode import Report, full_tasks, interleave
from .fleet import Fleet, FleetOptions, OutriderSystem, running_fleet, running_session
from .models import Models
from .prompts import Prompts
from .proxy import delaying_proxy
from .results import Line, SuiteResult, count_differences, degraded_notes, speeds
from .settings import BenchSettings
from .spread import ratios, spread
from .tasks import Measurement, Task

ROUND_TRIPS_MS = (0, 1, 5, 20, 50)
OFF = "outrider off"
WARM_UPS = 2


async def run_network(settings: BenchSettings, models: Models, report: Report) -> SuiteResult:
    """Measures one session at each round trip to the draft. Raises StartupError."""
    result = SuiteResult("network")
    prompts = Prompts.of(models.target)
    options = FleetOptions(
        models.target,
        models.draft,
        context=models.context_for(settings.tokens),
        engine_options=settings.peers.weights.options,
    )
    report("network: starting the services")
    async with running_fleet(options) as fleet, AsyncExitStack() as stack:
        near = await stack.enter_async_context(outrider.AsyncClient(fleet.address))
        off = OutriderSystem(OFF, near, "off")
        systems = [await _system_at(stack, fleet, trip) for trip in ROUND_TRIPS_MS]
        for temperature in settings.temperatures:
            for system in systems * WARM_UPS:
                name, prompt = prompts.take()
                await system.run(Task(name, prompt, settings.tokens, temperature, seed=1))
            tasks = await full_tasks(off, prompts, settings, temperature)
            result.measurements += await interleave([off, *systems], tasks, report)
    result.lines = network_lines(result.measurements, settings.temperatures)
    result.series = {
        "round_trips": [
            {
                "round_trip_ms": trip,
                "temperature": temperature,
                "ratios": _ratios(result.measurements, trip, temperature),
            }
            for temperature in settings.temperatures
            for trip in ROUND_TRIPS_MS
        ]
    }
    result.differences = count_differences(result.measurements)
    result.notes = degraded_notes(result.measurements)
    return result


def network_lines(measurements: list[Measurement], temperatures: tuple[float, ...]) -> list[Line]:
    """Speed and ratio to no draft at all, for each round trip."""
    lines = []
    for temperature in temperatures:
        for trip in ROUND_TRIPS_MS:
            speed = spread(list(speeds(measurements, _name(trip), temperature).values()))
            ratio = spread(_ratios(measurements, trip, temperature))
            where = f"round trip {trip} ms, temperature {temperature:g}"
            lines.append(Line(f"outrider auto, {where}", speed, "tokens/s", digits=1))
            lines.append(Line(f"auto / off, {where}", ratio, "x"))
    return lines


async def _system_at(stack: AsyncExitStack, fleet: Fleet, trip: int) -> OutriderSystem:
    proxy = await stack.enter_async_context(delaying_proxy(fleet.draft_address, trip))
    _, address = await stack.enter_async_context(running_session(fleet.target_address, proxy))
    client = await stack.enter_async_context(outrider.AsyncClient(address))
    return OutriderSystem(_name(trip), client, "auto")


def _name(trip: int) -> str:
    return f"outrider auto, {trip} ms"


def _ratios(measurements: list[Measurement], trip: int, temperature: float) -> list[float]:
    return ratios(
        speeds(measurements, _name(trip), temperature), speeds(measurements, OFF, temperature)
    )
