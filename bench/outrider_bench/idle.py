"""Thousands of sessions that nobody uses: what memory each takes, and whether its next turn works.

Some of the sessions have had a turn, the others none; memory is read before them and after each step.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import outrider
from outrider_server.core.errors import StartupError
from outrider_server.planning.units import parse_bytes

from .fleet import Fleet, FleetOptions, running_fleet
from .models import Models
from .prompts import Prompts
from .talks import Answer, Talk, longest_tokens, make_talks, rehearsed, say

AT_ONCE = 8
"""Sessions made, and turns run, at once."""
TURNS = 2
T = TypeVar("T")
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleSettings:
    """What a run is asked for. Raises StartupError for what cannot be run."""

    sessions: int = 10_000
    with_turn: int = 1_000
    """Sessions that have had a turn, spread over all of them."""
    asked: int = 50
    """Sessions whose next turn is tried."""
    talks: int = 16
    prompt_tokens: int = 32
    reply_tokens: int = 8
    park_memory: str = "1GiB"
    draft: outrider.DraftMode = "auto"
    seed: int = 1

    def __post_init__(self) -> None:
        if self.park_memory != "0":
            parse_bytes(self.park_memory, "park memory")
        for name in ("sessions", "asked", "talks", "prompt_tokens", "reply_tokens"):
            if getattr(self, name) < 1:
                raise StartupError(f"{name.replace('_', ' ')} must be at least 1")
        if self.asked > self.sessions:
            raise StartupError(f"asked must be at most the {self.sessions} sessions")
        if not 0 <= self.with_turn <= self.sessions:
            raise StartupError(f"with turn must be 0 to the {self.sessions} sessions")


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes of each service at one moment."""

    what: str
    sessions: int
    """Sessions that this step was about."""
    seconds: float
    """How long the step took."""
    resident: dict[str, int]


@dataclass(frozen=True, slots=True)
class Idle:
    """What was found. The first reading stands before all sessions."""

    readings: Sequence[Memory]
    wrong_first: int
    """First turns that gave other tokens than the session alone."""
    wrong_next: int
    asked: int
    median_next_ms: float
    """To the first token of a next turn."""


def table(readings: Sequence[Memory]) -> str:
    """Resident memory after each step, and its growth by session, as a table in Markdown."""
    names = list(readings[0].resident)
    heads = [f"{name}, MiB | growth, bytes a session" for name in names]
    lines = [f"| after | took, s | {' | '.join(heads)} |", "|---|---:|" + "---:|" * 2 * len(names)]
    before = readings[0]
    for reading in readings:
        cells = []
        for name in names:
            grown = reading.resident[name] - before.resident[name]
            by_session = f"{grown / reading.sessions:.0f}" if reading.sessions else ""
            cells.append(f"{reading.resident[name] / 2**20:.1f} | {by_session}")
        lines.append(f"| {reading.what} | {reading.seconds:.1f} | {' | '.join(cells)} |")
        before = reading
    return "\n".join(lines)


def summary(found: Idle) -> str:
    """How the next turns went, in one line."""
    return (
        f"next turn of {found.asked} sessions: {found.asked - found.wrong_next} right, "
        f"first token after {found.median_next_ms:.1f} ms (median)"
    )


def problems(found: Idle) -> list[str]:
    """What is not as promised; nothing where all is well."""
    counts = {"first": found.wrong_first, "next": found.wrong_next}
    return [
        f"{count} {which} turns gave other tokens than the session alone"
        for which, count in counts.items()
        if count
    ]


def sessions_with_turn(settings: IdleSettings) -> list[int]:
    """Which sessions have a turn before they idle, in random order."""
    return random.Random(settings.seed).sample(range(settings.sessions), settings.with_turn)


def sessions_asked(settings: IdleSettings) -> list[int]:
    """Which sessions are tried: half of those that had a turn, as far as there are, and others."""
    drawn = random.Random(settings.seed + 1)
    had = set(sessions_with_turn(settings))
    without = [session for session in range(settings.sessions) if session not in had]
    several = max(min(settings.asked // 2, len(had)), settings.asked - len(without))
    return drawn.sample(sorted(had), several) + drawn.sample(without, settings.asked - several)


async def run_idle(settings: IdleSettings, models: Models, report: Report) -> Idle:
    """Makes the sessions and tries some. Raises StartupError, and OutriderError for a turn that failed."""
    prompts, tokens = Prompts.of(models.target), settings.prompt_tokens
    talks = make_talks(prompts, settings.talks, TURNS, tokens, tokens, settings.reply_tokens)
    needed = max(longest_tokens(talk) for talk in talks)
    if needed > models.longest:
        raise StartupError(f"a session would hold {needed} tokens, the models {models.longest}")
    options = FleetOptions(
        models.target,
        models.draft,
        context=needed,
        target_options=(f"--park-memory={settings.park_memory}",),
    )
    report("idle: starting the services")
    async with (
        running_fleet(options) as fleet,
        outrider.AsyncClient(fleet.address, timeout_ms=None) as client,
    ):
        return await measure_idle(settings, fleet, client, talks, report)


async def measure_idle(
    settings: IdleSettings,
    fleet: Fleet,
    client: outrider.AsyncClient,
    talks: Sequence[Talk],
    report: Report,
) -> Idle:
    """Creates, uses and deletes the sessions on running services, and reads their memory between."""
    talks = await rehearsed(client, talks)
    readings = [Memory("the start", 0, 0.0, fleet.resident_bytes())]
    sessions: dict[int, outrider.AsyncSession] = {}

    async def create(number: int) -> None:
        sessions[number] = await client.create_session()

    async def take(number: int, turn: int) -> tuple[Answer, bool]:
        talk = talks[number % len(talks)]
        answer = await say(sessions[number], talk.turns[turn], settings.draft)
        return answer, answer.tokens == talk.expected[turn]

    report(f"idle: making {settings.sessions} sessions")
    seconds, _ = await _several(create, range(settings.sessions))
    what = f"{settings.sessions} sessions"
    readings.append(Memory(what, settings.sessions, seconds, fleet.resident_bytes()))
    had = sessions_with_turn(settings)
    report(f"idle: a turn in {len(had)} of them")
    seconds, firsts = await _several(lambda number: take(number, 0), had)
    readings.append(Memory(f"a turn in {len(had)}", len(had), seconds, fleet.resident_bytes()))
    asked, started = sessions_asked(settings), set(had)
    nexts = [await take(number, int(number in started)) for number in asked]
    times = sorted(answer.first_ms for answer, _ in nexts)
    return Idle(
        readings,
        sum(not is_right for _, is_right in firsts),
        sum(not is_right for _, is_right in nexts),
        len(asked),
        times[len(times) // 2],
    )


async def _several(
    do: Callable[[int], Awaitable[T]], numbers: Sequence[int]
) -> tuple[float, list[T]]:
    """Does it for every number, some at once; how many seconds it took, and what came of it."""
    waiting = list(reversed(numbers))
    outcomes: list[T] = []

    async def work() -> None:
        while waiting:
            outcomes.append(await do(waiting.pop()))

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return time.perf_counter() - started, outcomes
