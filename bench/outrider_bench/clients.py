"""Clients that ask for more than there is room for, and note what came of each turn.

Owns the load of one phase: clients that wait for their answer, or turns that arrive whoever else waits.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import grpc
import outrider
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from outrider_server.core.errors import StartupError

from .arrivals import End, Load, TurnOutcome, load_between, poisson_arrivals
from .fleet import Fleet, OutriderSystem, warm_up
from .prompts import Prompts
from .talks import TEMPERATURE
from .tasks import Task

CREATING = 8
"""Sessions made at once."""
LEAST = {"slots": 1, "queue": 0, "repeats": 1, "prompt_tokens": 1, "reply_tokens": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class OverloadSettings:
    """What a run is asked for. Raises StartupError for what cannot be run."""

    slots: int = 8
    queue: int = 16
    repeats: int = 3
    seconds: float = 20.0
    ramp_seconds: float = 5.0
    """At the beginning of each phase, not counted."""
    loads: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0)
    """Turns that arrive, as multiples of the peak's."""
    prompt_tokens: int = 48
    reply_tokens: int = 64
    draft: outrider.DraftMode = "auto"
    seed: int = 1

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise StartupError(f"{name.replace('_', ' ')} must be at least {least}")
        if not self.loads or not all(0 < load < math.inf for load in self.loads):
            raise StartupError("loads must be numbers above 0")
        if not 0 <= self.ramp_seconds < self.seconds < math.inf:
            raise StartupError("ramp seconds must be at least 0 and less than seconds")


@dataclass(frozen=True, slots=True)
class Phase:
    """So many seconds under one kind of load."""

    what: str
    arrives: bool
    """Turns come whoever waits, not from clients that each wait for their answer."""
    turns: Sequence[TurnOutcome]
    load: Load
    latest_seconds: float
    """By how much the most belated arrival came too late: a client that is slow itself offers less."""
    cpu: dict[str, float]
    """Processors that each process used on average."""


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def now(self) -> float:
        """Seconds."""
        return time.perf_counter() - self._began

    async def until(self, seconds: float) -> None:
        """Waits for a time; not at all for one that has passed."""
        await asyncio.sleep(max(0.0, seconds - self.now()))


class Clients:
    """The clients of one run."""

    def __init__(
        self,
        settings: OverloadSettings,
        fleet: Fleet,
        client: outrider.AsyncClient,
        prompts: Prompts,
    ) -> None:
        self._settings = settings
        self._fleet = fleet
        self._client = client
        self._prompts = prompts
        self._seeds = itertools.count(settings.seed * 1_000_000)

    async def warm_up(self) -> None:
        """As many short turns at once as there are slots."""
        system = OutriderSystem("warm-up", self._client, self._settings.draft)
        tasks = [
            Task("warm-up", self._prompts.take_short(self._settings.prompt_tokens), 1, 0.0, seed)
            for seed in range(self._settings.slots)
        ]
        await asyncio.gather(*(warm_up(system, task) for task in tasks))

    async def closed(self, clients: int) -> Phase:
        """Clients that each begin a turn when their last one has ended."""
        turns: list[TurnOutcome] = []
        self._begin_phase()
        clock = Clock()
        cpu = self._cpu_seconds()

        async def ask() -> None:
            while clock.now() < self._settings.seconds:
                session = await self._client.create_session()
                turns.append(await self.turn(session, clock, retries=True))
                if turns[-1].end is End.REFUSED:
                    return  # it was told to come back when the phase is over

        asking = [asyncio.create_task(ask()) for _ in range(clients)]
        await clock.until(self._settings.seconds)
        used = self._cpu_since(cpu)
        await asyncio.gather(*asking)
        return self._phase(f"{clients} clients in turn", False, turns, 0.0, used)

    async def open(self, factor: float, turns_per_second: float, retries: bool) -> Phase:
        """Turns that arrive at random, `factor` times as many a second."""
        rate = factor * turns_per_second
        due = poisson_arrivals(rate, self._settings.seconds, self._settings.seed)
        sessions = await self._sessions(len(due))
        self._begin_phase()
        clock, latest = Clock(), 0.0
        cpu = self._cpu_seconds()
        running = []
        for session, when in zip(sessions, due, strict=True):
            await clock.until(when)
            latest = max(latest, clock.now() - when)
            running.append(asyncio.create_task(self.turn(session, clock, retries)))
        await clock.until(self._settings.seconds)
        used = self._cpu_since(cpu)
        turns = await asyncio.gather(*running)
        what = f"{factor:g} x peak" + (", tried again" if retries else "")
        return self._phase(what, True, turns, latest, used)

    async def _sessions(self, count: int) -> list[outrider.AsyncSession]:
        made: list[outrider.AsyncSession] = []
        for start in range(0, count, CREATING):
            several = range(start, min(start + CREATING, count))
            made += await asyncio.gather(*(self._client.create_session() for _ in several))
        return made

    async def turn(
        self, session: outrider.AsyncSession, clock: Clock, retries: bool
    ) -> TurnOutcome:
        """One turn; one that is refused comes back when it was told to, while the phase lasts."""
        prompt, seed = self._prompts.take_short(self._settings.prompt_tokens), next(self._seeds)
        refusals = without = 0
        while True:
            reply = session.generate(
                prompt,
                max_new_tokens=self._settings.reply_tokens,
                temperature=TEMPERATURE,
                seed=seed,
                draft=self._settings.draft,
            )
            try:
                arrivals = [clock.now() async for _ in reply]
            except outrider.OutriderError as error:
                if reply.started is not None or not isinstance(error, outrider.ExhaustedError):
                    failure = f"{type(error).__name__} after {len(reply.events)} tokens: {error}"
                    return TurnOutcome(End.FAILED, (), refusals, without, failure)
                refusals += 1
                without += not has_retry_info(error)
                again = clock.now() + error.retry_after_ms / 1000
                if not retries or again >= self._settings.seconds:
                    return TurnOutcome(End.REFUSED, (), refusals, without)
                await clock.until(again)
            else:
                return TurnOutcome(End.FINISHED, tuple(arrivals), refusals, without)

    def _begin_phase(self) -> None:
        """Every phase asks for the same turns, so that none has texts that are easier to propose."""
        self._prompts = self._prompts.again()
        self._seeds = itertools.count(self._settings.seed * 1_000_000)

    def _phase(
        self,
        what: str,
        arrives: bool,
        turns: Sequence[TurnOutcome],
        latest: float,
        cpu: dict[str, float],
    ) -> Phase:
        load = load_between(turns, self._settings.ramp_seconds, self._settings.seconds)
        return Phase(what, arrives, turns, load, latest, cpu)

    def _cpu_seconds(self) -> dict[str, float]:
        return {**self._fleet.cpu_seconds(), "clients": time.process_time()}

    def _cpu_since(self, before: dict[str, float]) -> dict[str, float]:
        now = self._cpu_seconds()
        return {name: (now[name] - before[name]) / self._settings.seconds for name in now}


def has_retry_info(error: outrider.OutriderError) -> bool:
    """True where the status that the service sent says when to come back."""
    cause = error.__cause__
    if not isinstance(cause, grpc.aio.AioRpcError):
        return False
    status = rpc_status.from_call(cast(grpc.Call, cause))
    return status is not None and any(
        detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details
    )
