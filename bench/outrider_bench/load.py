"""The suite `load`: 1 to 16 sessions at once, with speculation and without.

Throughput is that of all sessions while all run: from their common start until the first of them has its last
token. Each number of sessions has prompts of its own, which both modes get.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Sequence

import outrider
from outrider_server.core.errors import StartupError

from .decode import SETTLE_SECONDS, TRIES, Report
from .fleet import FleetOptions, OutriderSystem, running_fleet
from .models import Models
from .prompts import Prompts
from .results import Line, SuiteResult, count_differences, degraded_notes
from .settings import BenchSettings
from .spread import spread
from .tasks import Measurement, Task

SESSIONS = (1, 2, 4, 8, 16)
MODES: tuple[outrider.DraftMode, ...] = ("auto", "off")

Throughputs = dict[tuple[str, int], list[float]]


async def run_load(settings: BenchSettings, models: Models, report: Report) -> SuiteResult:
    """Measures sessions that run at once, at the first temperature. Raises StartupError."""
    result = SuiteResult("load")
    prompts = Prompts.of(models.target)
    temperature = settings.temperatures[0]
    options = FleetOptions(
        models.target,
        models.draft,
        slots=max(SESSIONS),
        context=models.context_for(settings.tokens),
        engine_options=settings.peers.weights.options,
    )
    found: Throughputs = {}
    report("load: starting the services")
    async with running_fleet(options) as fleet, outrider.AsyncClient(fleet.address) as client:
        systems = {mode: OutriderSystem(f"outrider {mode}", client, mode) for mode in MODES}
        for repeat in range(settings.repeats):
            for sessions in SESSIONS:
                tasks = await full_tasks(systems["auto"], prompts, sessions, settings)
                for mode in MODES if repeat % 2 else MODES[::-1]:
                    await asyncio.sleep(SETTLE_SECONDS)
                    outcomes, speed = await _at_once(systems[mode], tasks)
                    result.measurements += outcomes
                    found.setdefault((mode, sessions), []).append(speed)
            report(f"load: {repeat + 1} of {settings.repeats}")
    result.lines = load_lines(found, temperature)
    result.series = {
        "sessions": [
            {"mode": mode, "sessions": sessions, "tokens_per_second": speeds}
            for (mode, sessions), speeds in sorted(found.items())
        ]
    }
    result.differences = count_differences(result.measurements)
    result.notes = degraded_notes(result.measurements)
    return result


def load_lines(found: Throughputs, temperature: float) -> list[Line]:
    """Throughputs, and the two ratios that say whether sessions share steps and the draft pays."""
    lines = [
        Line(
            f"{sessions} sessions, outrider {mode}, temperature {temperature:g}",
            spread(found[mode, sessions]),
            "tokens/s",
            digits=1,
        )
        for sessions in SESSIONS
        for mode in MODES
    ]
    pairs = [(("auto", 8), ("auto", 1)), (("off", 8), ("off", 1))]
    pairs += [(("auto", sessions), ("off", sessions)) for sessions in SESSIONS]
    for above, below in pairs:
        values = [a / b for a, b in zip(found[above], found[below], strict=True)]
        what = f"{above[0]} at {above[1]} sessions / {below[0]} at {below[1]}"
        lines.append(Line(what, spread(values), "x"))
    return lines


async def full_tasks(
    system: OutriderSystem, prompts: Prompts, sessions: int, settings: BenchSettings
) -> list[Task]:
    """Tasks whose replies do not end early, or fewer sessions would run than are counted.

    They are tried at once, which warms this number of sessions up. Raises StartupError where too few are
    long enough.
    """
    found: list[Task] = []
    for _ in range(TRIES):
        tried = [
            Task(name, prompt, settings.tokens, settings.temperatures[0], seed)
            for seed, (name, prompt) in enumerate(
                prompts.take() for _ in range(sessions - len(found))
            )
        ]
        outcomes, _speed = await _at_once(system, tried)
        found += [entry.task for entry in outcomes if len(entry.outcome.tokens) == settings.tokens]
        if len(found) == sessions:
            return found
    raise StartupError(
        f"too few replies reach {settings.tokens} tokens for {sessions} sessions; "
        "ask for fewer tokens"
    )


async def _at_once(
    system: OutriderSystem, tasks: Sequence[Task]
) -> tuple[list[Measurement], float]:
    """The tasks' outcomes, and tokens per second of all together."""
    started = time.perf_counter()
    outcomes = await asyncio.gather(*(system.run(task) for task in tasks))
    name = f"{system.name}, {len(tasks)} sessions"
    measurements = [
        Measurement(name, task, outcome) for task, outcome in zip(tasks, outcomes, strict=True)
    ]
    return measurements, speed_together([outcome.arrivals for outcome in outcomes], started)


def speed_together(arrivals: Sequence[Sequence[float]], started: float) -> float:
    """Tokens a second of sessions that began at `started`, while all of them run.

    Later some have ended, and fewer sessions would pass for all. `arrivals` are when each one's tokens came.
    """
    ended = min(times[-1] for times in arrivals)
    return sum(bisect_right(times, ended) for times in arrivals) / (ended - started)
