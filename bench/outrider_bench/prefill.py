"""The suite `prefill`: time to the first token of prompts of many lengths, and what others feel of it."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass

import outrider

from .decode import SETTLE_SECONDS, Report
from .fleet import FleetOptions, OutriderSystem, running_fleet, warm_up
from .models import Models
from .prompts import Prompts
from .results import Line, SuiteResult
from .settings import BenchSettings
from .spread import spread
from .tasks import Measurement, Task

LENGTHS = (64, 128, 256, 512, 1024, 2048, 3000)
HEADROOM = 64
"""Positions that stay free behind the longest prompt."""
STREAM_TOKENS = 400
QUIET_TOKENS = 16
"""Tokens that the other session has brought when the long prompt arrives."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """Milliseconds between two tokens of a session, before and while another one's prompt is read."""

    before: list[float]
    during: list[float]


async def run_prefill(settings: BenchSettings, models: Models, report: Report) -> SuiteResult:
    """Measures prompts up to what the models hold. Raises StartupError."""
    result = SuiteResult("prefill")
    prompts = Prompts.of(models.target)
    lengths = [length for length in LENGTHS if length + HEADROOM <= models.longest]
    options = FleetOptions(
        models.target, models.draft, engine_options=settings.peers.weights.options
    )
    report("prefill: starting the services")
    async with (
        running_fleet(options) as fleet,
        outrider.AsyncClient(fleet.address) as client,
    ):
        system = OutriderSystem("outrider off", client, "off")
        await warm_up(system, Task("warm-up", prompts.take()[1], 2, 0.0, 1))
        first_ms: dict[int, list[float]] = {length: [] for length in lengths}
        for _ in range(settings.repeats):
            for length in lengths:
                await asyncio.sleep(SETTLE_SECONDS)
                name, prompt = prompts.take_long(length)
                task = Task(name, prompt, 2, 0.0, 1)
                outcome = await system.run(task)
                result.measurements.append(Measurement(system.name, task, outcome))
                first_ms[length].append(1000 * (outcome.first_seconds or 0.0))
        report("prefill: a long prompt beside another session")
        gaps = [await _gaps(client, system, prompts, lengths[-1]) for _ in range(settings.repeats)]
    result.lines = [_length_line(length, values) for length, values in first_ms.items()]
    result.lines += gap_lines(gaps, lengths[-1])
    result.series = {
        "first_token_ms": [
            {"prompt_tokens": length, "ms": values} for length, values in first_ms.items()
        ]
    }
    return result


def _length_line(length: int, values: list[float]) -> Line:
    rate = length / statistics.median(values) * 1000
    return Line(
        f"first token of a prompt of {length}", spread(values), "ms", f"{rate:.0f} tokens/s", 1
    )


def gap_lines(gaps: list[Gaps], length: int) -> list[Line]:
    """What a session feels while a prompt of `length` tokens is read for another."""
    medians = [
        ("before", [statistics.median(entry.before) for entry in gaps]),
        ("while it is read", [statistics.median(entry.during) for entry in gaps if entry.during]),
    ]
    lines = [
        Line(f"between two tokens beside a prompt of {length}, {when}", spread(values), "ms")
        for when, values in medians
        if values
    ]
    longest = [max(entry.during) for entry in gaps if entry.during]
    if longest:
        lines.append(Line("longest such gap while it is read", spread(longest), "ms"))
    return lines


async def _gaps(
    client: outrider.AsyncClient, system: OutriderSystem, prompts: Prompts, length: int
) -> Gaps:
    """Streams one session, lets the long prompt in after some tokens, and watches the stream's gaps."""
    session = await client.create_session()
    _, prompt = prompts.take()
    reply = session.generate(
        prompt, max_new_tokens=STREAM_TOKENS, temperature=1.0, seed=1, draft="off"
    )
    name, long_prompt = prompts.take_long(length)
    reading: asyncio.Task[object] | None = None
    before: list[float] = []
    during: list[float] = []
    last = None
    async for event in reply:
        now = time.perf_counter()
        if last is not None:
            gap = 1000 * (now - last)
            if reading is None:
                before.append(gap)
            elif not reading.done():
                during.append(gap)
        last = now
        if reading is None and event.index == QUIET_TOKENS:
            reading = asyncio.create_task(system.run(Task(name, long_prompt, 1, 0.0, 1)))
        if reading is not None and reading.done():
            break
    reply.cancel()
    if reading is not None:
        await reading
    return Gaps(before, during)
