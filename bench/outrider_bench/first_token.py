"""The suite `first-token`: the first token of long prompts, and when each system could first be asked.

A turn of one token is asked of every system, so that none has to stream. Ready is from the start of a
system's processes, one after the other, with what it keeps on disk already there.
"""

from __future__ import annotations

from collections.abc import Sequence

import outrider

from .decode import interleave
from .fleet import FleetOptions, OutriderSystem, running_fleet, warm_up
from .models import Models
from .peers import Report, running_peers
from .prompts import Prompts
from .results import Line, SuiteResult
from .settings import BenchSettings
from .spread import spread
from .tasks import Measurement, System, Task

LENGTHS = (512, 2048)
HEADROOM = 64
"""Positions that stay free behind the longest prompt."""
OURS: tuple[outrider.DraftMode, ...] = ("auto", "off")


async def run_first_token(settings: BenchSettings, models: Models, report: Report) -> SuiteResult:
    """Measures prompts that the models hold. Raises StartupError."""
    result = SuiteResult("first-token")
    prompts = Prompts.of(models.target)
    lengths = [length for length in LENGTHS if length + HEADROOM <= models.longest]
    options = FleetOptions(
        models.target,
        models.draft,
        context=max(lengths, default=0) + HEADROOM,
        engine_options=settings.peers.weights.options,
    )
    report("first-token: starting the services")
    async with running_fleet(options) as fleet, outrider.AsyncClient(fleet.address) as client:
        systems: list[System] = [OutriderSystem(f"outrider {mode}", client, mode) for mode in OURS]
        ready = {system.name: fleet.ready_seconds for system in systems}
        for ours in OURS:
            await warm_up(
                OutriderSystem(ours, client, ours), Task("warm-up", prompts.take()[1], 2, 0.0, 1)
            )
        async with running_peers(settings.peers, models, options.context, report) as peers:
            for peer in peers:
                task = Task("warm-up", prompts.take_long(lengths[0])[1], 1, 0.0, 1)
                chosen = await peer.fastest(task)
                ready[chosen.name] = peer.settings[0].ready_seconds
                systems.append(chosen)
            tasks = [
                Task(f"{length}: {name}", prompt, 1, 0.0, 1)
                for _ in range(settings.repeats)
                for length in lengths
                for name, prompt in [prompts.take_long(length)]
            ]
            result.measurements = await interleave(systems, tasks, report)
    result.lines = first_token_lines(result.measurements, lengths, ready)
    return result


def first_token_lines(
    measurements: Sequence[Measurement], lengths: Sequence[int], ready: dict[str, float]
) -> list[Line]:
    """The first token's time of each system by the prompt's length, and when it was ready."""
    lines = []
    for length in lengths:
        for system in ready:
            found = [
                1000 * (entry.outcome.first_seconds or entry.outcome.seconds)
                for entry in measurements
                if entry.system == system and len(entry.task.prompt) == length
            ]
            if found:
                what = f"first token of a prompt of {length}, {system}"
                lines.append(Line(what, spread(found), "ms", digits=1))
    return lines + [Line(f"ready, {system}", seconds, "s") for system, seconds in ready.items()]
