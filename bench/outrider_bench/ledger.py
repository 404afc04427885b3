"""What a ledger costs: time of an append, and what idle sessions take.

Each ledger is a new file or an empty database, and keeps what is written. An append is what the
decode loop waits for: four tokens of one round, durable when it returns.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop
from outrider_server.core.types import TokenSource
from outrider_server.ledger_opening import check_ledger, open_ledger
from outrider_server.session.ledger.ledger import Ledger, LedgerToken, NewTurn

from .machine import caption, machine_facts, resident_bytes

ROUND = [LedgerToken(number, TokenSource.DRAFT) for number in range(4)]
PROMPT = tuple(range(64))
WARM_UP = 50
CREATING = 8
"""Sessions made at once."""


@dataclass(frozen=True, slots=True)
class Appends:
    """Appends by so many sessions at once. Times in milliseconds."""

    sessions: int
    p50_ms: float
    p99_ms: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Idle:
    """Sessions that nobody uses, and the next turn of one of them."""

    sessions: int
    create_seconds: float
    process_bytes: int
    """By how much the resident memory of this process grew."""
    list_page_ms: float
    next_turn_ms: float


async def measure_appends(ledger: Ledger, sessions: int, appends: int) -> Appends:
    """`appends` appends in each of `sessions` sessions, which write at the same time."""
    opened = [await _begun(ledger) for _ in range(sessions)]
    times: list[float] = []
    started = time.perf_counter()

    async def write(session_id: str, epoch: int) -> None:
        for number in range(WARM_UP + appends):
            begun = time.perf_counter()
            await ledger.append(session_id, epoch, len(PROMPT) + number * len(ROUND), ROUND)
            if number >= WARM_UP:
                times.append(time.perf_counter() - begun)

    await asyncio.gather(*(write(*session) for session in opened))
    seconds = time.perf_counter() - started
    times.sort()
    return Appends(
        sessions,
        1000 * times[len(times) // 2],
        1000 * times[len(times) * 99 // 100],
        sessions * (WARM_UP + appends) / seconds,
    )


async def measure_idle(ledger: Ledger, sessions: int) -> Idle:
    """Makes sessions of one turn each, then asks for a page of them and for a turn of the first."""
    before = resident_bytes(os.getpid())
    started = time.perf_counter()
    opened: list[tuple[str, int]] = []

    async def fill() -> None:
        while len(opened) < sessions:
            opened.append(("", 0))  # its number, so that the others do not make it too
            number = len(opened) - 1
            opened[number] = await _begun(ledger)

    await asyncio.gather(*(fill() for _ in range(CREATING)))
    create_seconds = time.perf_counter() - started
    grown = resident_bytes(os.getpid()) - before
    started = time.perf_counter()
    await ledger.list_sessions("", 100)
    listed = time.perf_counter()
    session_id, epoch = opened[0]
    await ledger.tokens(session_id)
    await ledger.begin_turn(session_id, epoch, len(PROMPT), NewTurn("next", PROMPT))
    ended = time.perf_counter()
    return Idle(sessions, create_seconds, grown, 1000 * (listed - started), 1000 * (ended - listed))


async def _begun(ledger: Ledger) -> tuple[str, int]:
    session = await ledger.create_session("", "model")
    lease = await ledger.take_over(session.session_id)
    await ledger.begin_turn(session.session_id, lease.epoch, 0, NewTurn("first", PROMPT))
    return session.session_id, lease.epoch


async def _report(location: str, appends: int, idle: int) -> None:
    ledger = await open_ledger(location, 0)
    print(location.partition("://")[0] if "://" in location else "sqlite")
    for sessions in (1, 8):
        found = await measure_appends(ledger, sessions, appends)
        print(
            f"  {found.sessions} sessions: p50 {found.p50_ms:.2f} ms, p99 {found.p99_ms:.2f} ms,"
            f" {found.per_second:.0f} appends/s"
        )
    rest = await measure_idle(ledger, idle)
    print(
        f"  {rest.sessions} idle sessions: made in {rest.create_seconds:.1f} s, this process grew by"
        f" {rest.process_bytes / rest.sessions:.0f} bytes a session; a page of 100"
        f" {rest.list_page_ms:.1f} ms, the next turn's tokens and prompt {rest.next_turn_ms:.1f} ms"
    )
    await ledger.aclose()


def run_ledgers(places: Sequence[str], appends: int, idle: int) -> int:
    """Measures one after the other and prints the figures; 0. Raises StartupError."""
    for place in places:
        uvloop.run(check_ledger(place))
    # Not the command line, which may hold a password.
    print(caption(machine_facts() | {"command": "outrider-server bench ledger"}))
    for place in places:
        uvloop.run(_report(place, appends, idle))
    return 0
