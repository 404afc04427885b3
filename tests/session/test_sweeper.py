"""The sweeper, on a clock that the tests move."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from outrider_server.core.errors import NotFound, Unavailable
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger
from outrider_server.session.ledger.steady_clock import SteadyClock
from outrider_server.session.ledger.sweeper import BATCH, Sweeper


class FakeClock:
    """Time passes only where somebody sleeps, and sleeping ends the test after a while."""

    def __init__(self, sleeps: int) -> None:
        self.seconds = 1_700_000_000.0
        self.left = sleeps
        self.slept: list[float] = []

    def now_us(self) -> int:
        return int(self.seconds * 1_000_000)

    async def sleep(self, seconds: float) -> None:
        if not self.left:
            raise asyncio.CancelledError
        self.left -= 1
        self.slept.append(seconds)
        self.seconds += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(sleeps=3)


@pytest.fixture
async def ledger(clock: FakeClock, tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    time = SteadyClock(clock.now_us, clock.now_us)
    async with aclosing(SqliteLedger(tmp_path / "ledger.db", clock=time)) as opened:
        yield opened


async def test_the_sweeper_deletes_sessions_once_they_have_expired(
    ledger: SqliteLedger, clock: FakeClock
) -> None:
    for ttl_seconds in (15, 25, 35):
        await ledger.create_session("", "model", ttl_seconds)
    left: list[int] = []

    async def sleep(seconds: float) -> None:
        left.append(await ledger._file.read(_count))
        await clock.sleep(seconds)

    with suppress(asyncio.CancelledError):
        await Sweeper(ledger, 10.0, sleep).run()
    assert clock.slept == [10.0, 10.0, 10.0]
    assert left == [3, 3, 2, 1]


async def test_more_than_a_batch_is_deleted_in_one_sweep(
    ledger: SqliteLedger, clock: FakeClock
) -> None:
    for _ in range(2 * BATCH + 1):
        await ledger.create_session("", "model", 1)
    clock.seconds += 2
    assert await Sweeper(ledger, 10.0, clock.sleep).sweep() == 2 * BATCH + 1
    assert await ledger._file.read(_count) == 0


async def test_a_ledger_that_is_away_for_a_while_is_swept_later(
    ledger: SqliteLedger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await ledger.create_session("", "model", 5)
    sweep, attempts = ledger.sweep, itertools.count()

    async def fails_first(limit: int) -> int:
        if next(attempts) == 0:
            raise Unavailable("not now")
        return await sweep(limit)

    monkeypatch.setattr(ledger, "sweep", fails_first)
    with suppress(asyncio.CancelledError):
        await Sweeper(ledger, 10.0, clock.sleep).run()
    assert await ledger._file.read(_count) == 0
    with pytest.raises(NotFound):
        await ledger.get_session(session.session_id, "")


def _count(connection) -> int:
    return connection.execute("SELECT count(*) FROM sessions").fetchone()[0]
