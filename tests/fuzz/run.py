"""Runs batches of fuzzed calls; stops at the first that leaves something wrong."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

from outrider_server.host.engine_host import EngineHost

from .calls import Plan, Tally, perform, planned
from .methods import DRAFT_METHODS, SESSION_METHODS, TARGET_METHODS
from .world import World, world

BATCH = 200
AT_ONCE = 8
SESSIONS = 4


class Failed(Exception):
    """What was wrong, with the seed and number of the call, or of the batch, that it happened in."""


async def fuzz(
    folder: Path,
    hosts: tuple[EngineHost, EngineHost],
    messages: int,
    seed: int,
    tell: Callable[[int], None] = lambda _: None,
) -> Tally:
    """Makes so many calls to services over target and draft. Raises Failed."""
    tally = Tally()
    async with world(folder, *hosts) as services:
        for first in range(0, messages, BATCH):
            numbers = range(first, min(first + BATCH, messages))
            await _batch(services, numbers, seed, tally)
            wrong = await services.settled()
            if wrong:
                raise Failed(f"seed {seed}, after messages {first} to {numbers[-1]}: {wrong}")
            tell(numbers[-1] + 1)
    return tally


async def _batch(services: World, numbers: range, seed: int, tally: Tally) -> None:
    sessions = [await services.session() for _ in range(SESSIONS)]
    waiting = iter(numbers)

    async def work() -> None:
        for number in waiting:
            plan, channel = _plan(services, number, seed, sessions)
            wrong = await perform(plan, services.channels[channel], tally)
            if wrong:
                raise Failed(f"seed {seed}, message {number}: {wrong}\n{plan}")

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
    except* Failed as failed:
        raise failed.exceptions[0] from None


def _plan(services: World, number: int, seed: int, sessions: list[str]) -> tuple[Plan, int]:
    """A call, and the service that it is made to."""
    draws = random.Random(f"{seed}/{number}")
    channel = draws.choice((0, 0, 1, 2))
    method = draws.choice((SESSION_METHODS, TARGET_METHODS, DRAFT_METHODS)[channel])
    fingerprint = services.draft.engine.loaded.vocabulary_fingerprint
    subject = fingerprint if channel == 2 else draws.choice(sessions)
    return planned(draws, method, subject), channel
