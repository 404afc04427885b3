"""Faults at random moments of turns, one after another, and how long each turn took to recover.

What happens and when follows from a seed: which service, what is done to it, and at which token of a turn.
Recovery is the time from the fault to the end of the longest silence after it: what was on its way already
still arrives, and does not count as recovered.
"""

from __future__ import annotations

import asyncio
import enum
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from .cluster import Cluster, Service
from .load import News, RunningTurn, Speaker

FAULT_SECONDS = 300.0
LONGEST_DELAY_SECONDS = 0.02
OPENING_SHARE = 0.15
"""So many faults come before their turn has a token; there is more to go wrong than at any other moment."""
TOKENS_WITHOUT_DRAFT = 5
POLL_SECONDS = 0.01


class Fault(enum.StrEnum):
    """What is done to a service."""

    KILL = "kill"
    """SIGKILL; started again at once."""
    FREEZE = "freeze"
    """SIGSTOP until it was noticed; then SIGCONT."""
    FREEZE_AND_KILL = "freeze and kill"
    """SIGSTOP until it was noticed; then SIGKILL, and started again."""
    TERMINATE = "terminate"
    """SIGTERM; started again when it has ended."""
    BREAK = "break"
    """Its connections are reset."""
    SHUT = "shut"
    """Nothing passes to it or from it until that was noticed."""


UNNOTICED = (Fault.FREEZE, Fault.FREEZE_AND_KILL, Fault.SHUT)
"""Nobody is told of these."""


@dataclass(frozen=True, slots=True)
class PlannedFault:
    """A fault, and its moment in the turn that begins next: after this share of its tokens and a delay."""

    service: str
    fault: Fault
    share: float
    delay_seconds: float


@dataclass(slots=True)
class Damage:
    """What a fault did, in seconds: of each turn that was under way, or of the service."""

    service: str
    fault: Fault
    recoveries: list[float] = field(default_factory=list)
    """To the end of the longest silence after the fault; none for a draft."""
    detections: list[float] = field(default_factory=list)
    """From a target's freezing to the session service's saying so; from a draft's, to the end of the longest
    silence; from a session service's, to the SDK's next call."""
    silences: list[float] = field(default_factory=list)
    """The longest time without a token after the fault, to be held against an undisturbed turn's."""
    after_ready: list[float] = field(default_factory=list)
    """From the service's being ready again to the turn's next token, where that came later."""
    restart: float = 0.0


def planned(
    seed: int, faults: int, services: Sequence[str], kinds: Sequence[Fault]
) -> Iterator[PlannedFault]:
    """So many faults, the services in turn."""
    chance = random.Random(seed)
    for number in range(faults):
        yield PlannedFault(
            services[number % len(services)],
            chance.choice(kinds),
            max(0.0, chance.uniform(-OPENING_SHARE, 1.0 - OPENING_SHARE) / (1.0 - OPENING_SHARE)),
            chance.uniform(0, LONGEST_DELAY_SECONDS),
        )


async def inflict(
    cluster: Cluster, speakers: Sequence[Speaker], news: News, plan: PlannedFault
) -> Damage:
    """Waits for the moment, does it, and returns when every turn that was under way has gone on."""
    async with asyncio.timeout(FAULT_SECONDS):
        await _moment(speakers, news, plan)
        turns = [speaker.turn for speaker in speakers if not speaker.turn.ended]
        service, damage = cluster.services[plan.service], Damage(plan.service, plan.fault)
        at, complaints = time.monotonic(), cluster.complaints
        if plan.fault is Fault.SHUT:
            service.door.shut()
        elif plan.fault in UNNOTICED:
            service.freeze()
        if plan.fault in UNNOTICED and plan.service == "target":
            damage.detections = [await _complaint(cluster, complaints, turns) - at]
        elif plan.fault in UNNOTICED:
            while not all(turn.ended or _has_noticed(turn, at, plan.service) for turn in turns):
                await news.wait()
            damage.detections = [_detection(turn, at, plan.service) for turn in turns]
        ready = await _mend(service, plan.fault, damage)
        while not all(turn.ended or turn.arrivals[-1:] > [ready] for turn in turns):
            await news.wait()
    _assess(damage, [_longest_silence(turn, at) for turn in turns], at, ready)
    return damage


async def _complaint(cluster: Cluster, known: int, turns: Sequence[RunningTurn]) -> float:
    """When the session service says that the target failed, or all turns have ended without it."""
    while cluster.complaints == known and not all(turn.ended for turn in turns):  # noqa: ASYNC110
        await asyncio.sleep(POLL_SECONDS)
    return time.monotonic()


def _assess(
    damage: Damage, silences: Sequence[tuple[float, float]], at: float, ready: float
) -> None:
    """A turn that lost its draft never stood still: its longest silence is any, and recovers nothing."""
    damage.silences = [end - start for start, end in silences]
    if damage.service != "draft":
        damage.recoveries = [end - at for _, end in silences]
        damage.after_ready = [end - ready for _, end in silences if end > ready]


async def _mend(service: Service, fault: Fault, damage: Damage) -> float:
    """Brings the service back; the time when it was ready."""
    began = time.monotonic()
    if fault is Fault.FREEZE:
        service.thaw()
        return began
    if fault is Fault.SHUT:
        service.door.unlock()
        return began
    if fault is Fault.BREAK:
        service.door.break_connections()
        return began
    if fault is Fault.TERMINATE:
        await service.terminate()
    else:
        service.kill()
    service.start()
    ready = await service.until_ready()
    damage.restart = ready - began
    return ready


async def _moment(speakers: Sequence[Speaker], news: News, plan: PlannedFault) -> None:
    """The moment, in the next turn that begins."""
    before = [speaker.turn for speaker in speakers]
    while not (fresh := [s.turn for s in speakers if not s.turn.ended and s.turn not in before]):
        await news.wait()
    turn = fresh[0]
    while not turn.ended and len(turn.arrivals) < int(plan.share * turn.length):
        await news.wait()
    await asyncio.sleep(plan.delay_seconds)


def _has_noticed(turn: RunningTurn, at: float, service: str) -> bool:
    if service == "draft":
        return sum(arrival > at for arrival in turn.arrivals) > TOKENS_WITHOUT_DRAFT
    return any(call > at for call in turn.calls)


def _detection(turn: RunningTurn, at: float, service: str) -> float:
    if service == "draft" or not _has_noticed(turn, at, service):
        return _longest_silence(turn, at)[1] - at
    return next(call for call in turn.calls if call > at) - at


def _longest_silence(turn: RunningTurn, at: float) -> tuple[float, float]:
    """When the longest silence after a moment began and ended."""
    moments = [at, *(arrival for arrival in turn.arrivals if arrival > at)]
    return max(pairwise(moments), key=lambda pair: pair[1] - pair[0], default=(at, at))
