"""More sessions than slots, taking turns: are all texts right, what was read again, and what did it cost.

The same talks run three times over real services: with room in host memory for every session, for a third of
what they hold, and for none. What the target counted is compared with what the turns say of themselves.
"""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import outrider
from outrider_server.core.errors import StartupError
from outrider_server.planning.units import format_bytes, parse_bytes

from .collector import MetricsCollector, running_collector
from .fleet import FleetOptions, running_fleet
from .models import Models
from .prompts import Prompts
from .talks import Talk, longest_tokens, make_talks, rehearsed, say
from .visits import Kind, SlotMirror, Taken, classify, plan_visits

TARGET = "outrider-target"
GAUGES = ("slots_held", "slots_open", "parked", "parked_bytes", "queue")
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class CrowdSettings:
    """What a run is asked for. Raises StartupError for what cannot be run."""

    sessions: int = 200
    slots: int = 3
    at_once: int = 3
    turns: int = 3
    talks: int = 20
    first_tokens: int = 400
    later_tokens: int = 16
    reply_tokens: int = 24
    park_memory: str = "2GiB"
    """Enough for every session."""
    draft: outrider.DraftMode = "auto"
    seed: int = 1

    def __post_init__(self) -> None:
        parse_bytes(self.park_memory, "park memory")
        lowest = {"slots": 1, "at_once": 1, "turns": 2, "talks": 1, "first_tokens": 8}
        lowest |= {"later_tokens": 1, "reply_tokens": 1}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise StartupError(f"{name.replace('_', ' ')} must be at least {least}")
        if self.sessions <= self.slots:
            raise StartupError(f"sessions must be more than the {self.slots} slots")
        if self.at_once > self.slots:
            raise StartupError(f"at once must be at most the {self.slots} slots")


@dataclass(frozen=True, slots=True)
class Phase:
    """The turns under one budget of host memory, and what the target's metrics say of them."""

    park_bytes: int
    sessions: int
    turns: Sequence[Taken]
    counted: dict[str, float]
    """Growth of counters and last values of gauges, without the prefix of their names."""


def problems(phase: Phase) -> list[str]:
    """What is not as promised; nothing where all is well."""
    kinds = Counter(turn.kind for turn in phase.turns)
    counted, found = phase.counted, []
    wrong = sum(not turn.is_right for turn in phase.turns)
    if wrong:
        found.append(f"{wrong} turns gave other tokens than the session alone")
    if kinds[Kind.PARTLY]:
        found.append(f"{kinds[Kind.PARTLY]} turns read a part of their session again")
    # A session is dropped once before each time that it is read again, and once more if it is gone now.
    gone = phase.sessions - counted["slots_held"] - counted["parked"]
    if counted["dropped"] != kinds[Kind.REBUILT] + gone:
        found.append(
            f"the target dropped {counted['dropped']:.0f} sessions; {kinds[Kind.REBUILT]} were read "
            f"again and {gone:.0f} are gone"
        )
    # The last token of each turn's context is read by the step that decides the first of its reply.
    read = sum(turn.prefilled_tokens - 1 for turn in phase.turns)
    if counted["prefilled_tokens"] != read:
        found.append(f"turns read {read} tokens, the target {counted['prefilled_tokens']:.0f}")
    return found


def table(phases: Sequence[Phase]) -> str:
    """The phases as a table in Markdown: times to the first token in ms, tokens read as means."""
    lines = ["| host memory | the session was | turns | median, ms | p90, ms | tokens read |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for phase in phases:
        memory = format_bytes(phase.park_bytes)
        for kind in Kind:
            turns = [turn for turn in phase.turns if turn.kind is kind]
            if turns:
                times = sorted(turn.first_ms for turn in turns)
                read = statistics.mean(turn.prefilled_tokens for turn in turns)
                lines.append(
                    f"| {memory} | {kind} | {len(turns)} | {statistics.median(times):.1f} "
                    f"| {times[len(times) * 9 // 10]:.1f} | {read:.0f} |"
                )
    return "\n".join(lines)


def counts(phase: Phase) -> str:
    """What was right, and what the target counted, in one line."""
    counted, right = phase.counted, sum(turn.is_right for turn in phase.turns)
    return (
        f"{format_bytes(phase.park_bytes)}: {right} of {len(phase.turns)} replies right; the target restored "
        f"{counted['restored']:.0f} sessions and dropped {counted['dropped']:.0f}; at the end "
        f"{counted['slots_held']:.0f} in slots, {counted['parked']:.0f} parked with "
        f"{format_bytes(round(counted['parked_bytes']))}"
    )


async def run_crowd(settings: CrowdSettings, models: Models, report: Report) -> list[Phase]:
    """Runs the three phases. Raises StartupError, and OutriderError for a turn that failed."""
    prompts = Prompts.of(models.target)
    talks = make_talks(
        prompts,
        min(settings.talks, settings.sessions),
        settings.turns,
        settings.first_tokens,
        settings.later_tokens,
        settings.reply_tokens,
    )
    needed = max(longest_tokens(talk) for talk in talks)
    if needed > models.longest:
        raise StartupError(
            f"a session would hold {needed} tokens, the models {models.longest}; ask for fewer"
        )
    phases: list[Phase] = []
    async with running_collector() as collector:
        while len(phases) < 3:
            budget = next_budget(settings, phases)
            report(f"crowd: {settings.sessions} sessions, {format_bytes(budget)} of host memory")
            options = FleetOptions(
                models.target,
                models.draft,
                slots=settings.slots,
                context=needed,
                target_options=(f"--park-memory={budget}B" if budget else "--park-memory=0",),
                variables=collector.variables,
            )
            async with (
                running_fleet(options) as fleet,
                outrider.AsyncClient(fleet.address, timeout_ms=None) as client,
            ):
                if not phases:
                    talks = await rehearsed(client, talks)
                phases.append(await run_phase(settings, client, collector, talks, budget))
    return phases


def next_budget(settings: CrowdSettings, phases: Sequence[Phase]) -> int:
    """Bytes for all, then for a third of what they took, then for none. Raises StartupError."""
    if not phases:
        return parse_bytes(settings.park_memory, "park memory")
    if len(phases) == 2:
        return 0
    if phases[0].counted["dropped"]:
        raise StartupError(
            f"{settings.park_memory} of park memory does not hold every session; give more"
        )
    return max(1, round(phases[0].counted["parked_bytes"] / 3))


async def run_phase(
    settings: CrowdSettings,
    client: outrider.AsyncClient,
    collector: MetricsCollector,
    talks: Sequence[Talk],
    park_bytes: int,
) -> Phase:
    """All turns of new sessions, on a service that no one else uses. Raises OutriderError, StartupError."""
    sessions = [await client.create_session() for _ in range(settings.sessions)]
    before = await collector.read(TARGET)
    turns = await _take_turns(settings, sessions, talks)
    after = await collector.read(TARGET)
    counted = {}
    for name, value in after.items():
        short = name.rpartition(".")[2]
        counted[short] = value if short in GAUGES else value - before.get(name, 0.0)
    return Phase(park_bytes, settings.sessions, turns, counted)


async def _take_turns(
    settings: CrowdSettings, sessions: Sequence[outrider.AsyncSession], talks: Sequence[Talk]
) -> list[Taken]:
    """All turns of all sessions, so many at once."""
    waiting = plan_visits(settings.sessions, settings.turns, settings.seed)
    mirror = SlotMirror(settings.slots)
    said = [0] * settings.sessions
    busy: set[int] = set()
    taken: list[Taken] = []

    async def take_turns() -> None:
        while waiting:
            # Two lanes may want one session: the later one takes another first.
            place = next((at for at, each in enumerate(waiting) if each.session not in busy), None)
            if place is None:
                return
            visit = waiting.pop(place)
            busy.add(visit.session)
            taken.extend([await one(visit.session) for _ in range(visit.turns)])
            busy.remove(visit.session)

    async def one(number: int) -> Taken:
        talk, turn = talks[number % len(talks)], said[number]
        said[number] += 1
        in_slot = mirror.open(number)
        answer = await say(sessions[number], talk.turns[turn], settings.draft)
        mirror.close(number)
        new = answer.prompt_tokens
        kind = classify(answer.held_tokens, new, answer.prefilled_tokens, in_slot)
        is_right = answer.tokens == talk.expected[turn]
        return Taken(kind, answer.first_ms, answer.prefilled_tokens, is_right)

    await asyncio.gather(*(take_turns() for _ in range(settings.at_once)))
    return taken
