"""Behind a real pgbouncer that gives each transaction any connection, a ledger keeps every promise."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import psycopg
import pytest
from outrider_server.core.errors import StartupError, Unavailable
from outrider_server.ledger_opening import open_ledger
from outrider_server.session.ledger.ledger import Ledger, NewTurn
from outrider_server.session.ledger.postgres_ledger import PostgresLedger
from pgbouncer import Pooler, running_pooler
from postgres_server import PostgresServer, running_server

from .ledger_conformance import LedgerConformance
from .ledger_fixtures import generated, started_session
from .test_ledger_postgres import PATIENT_MS

DATABASES = (f"pooled_{number}" for number in itertools.count())
SHIFTED_CLOCK = """
CREATE OR REPLACE FUNCTION now_us() RETURNS bigint LANGUAGE sql VOLATILE AS
$$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + {offset_us} $$
"""


@pytest.fixture(scope="module")
def server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server of this file's own, which a test may kill."""
    with running_server() as running:
        yield running


@pytest.fixture(scope="module")
def pooler(server: PostgresServer, pgbouncer: None) -> Iterator[Pooler]:
    with running_pooler(server) as running:
        yield running


@pytest.fixture
def database(server: PostgresServer) -> str:
    """A database of the test's own."""
    name = next(DATABASES)
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return name


async def opened(url: str, default_ttl_seconds: int = 0) -> PostgresLedger:
    return await PostgresLedger.open(
        url, default_ttl_seconds=default_ttl_seconds, call_timeout_ms=PATIENT_MS
    )


@pytest.fixture
async def ledger(pooler: Pooler, database: str) -> AsyncIterator[PostgresLedger]:
    async with aclosing(await opened(pooler.url(database))) as store:
        yield store


class TestPooledLedger(LedgerConformance):
    @pytest.fixture(autouse=True)
    def _place(self, server: PostgresServer, pooler: Pooler, database: str) -> None:
        self.server, self.pooler, self.database, self.offset_us = server, pooler, database, 0

    async def open_store(self, folder: Path, default_ttl_seconds: int = 0) -> Ledger:
        return await opened(self.pooler.url(self.database), default_ttl_seconds)

    def pass_time(self, seconds: float) -> None:
        self.offset_us += int(seconds * 1_000_000)
        with self.server.connect(self.database) as connection:
            connection.execute(SHIFTED_CLOCK.format(offset_us=self.offset_us).encode())


async def test_everything_acknowledged_is_there(
    pooler: Pooler, database: str, server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Far more at once than the pooler has connections, from three services."""
    ledgers = [await opened(pooler.url(database)) for _ in range(3)]

    async def work(number: int) -> tuple[str, list[int]]:
        ledger = ledgers[number % 3]
        session_id, epoch = await started_session(ledger, number)
        for length in range(1, 6):
            await ledger.append(session_id, epoch, length, generated(number + length))
        return session_id, list(range(number, number + 6))

    with caplog.at_level(logging.WARNING):
        written = await asyncio.gather(*(work(number) for number in range(500)))
    for session_id, tokens in written:
        assert await ledgers[0].tokens(session_id) == tokens
    with server.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM sessions").fetchone() == (500,)
    for ledger in ledgers:
        await ledger.aclose()
    assert not caplog.records


async def test_no_setting_stays_on_a_connection_that_others_get(
    ledger: PostgresLedger, server: PostgresServer, pooler: Pooler, database: str
) -> None:
    session_id, epoch = await started_session(ledger, 1)
    await ledger.append(session_id, epoch, 1, generated(2))
    for _ in range(8):
        with psycopg.connect(pooler.url(database)) as other:
            for name in ("statement_timeout", "lock_timeout"):
                assert other.execute(f"SHOW {name}".encode()).fetchone() == ("0",)
            assert other.execute("SELECT name FROM pg_prepared_statements").fetchall() == []


async def test_a_database_killed_behind_its_pooler_loses_nothing_acknowledged(
    pooler: Pooler, database: str, server: PostgresServer
) -> None:
    ledger = await PostgresLedger.open(pooler.url(database), call_timeout_ms=2000)
    async with aclosing(ledger):
        session_id, epoch = await started_session(ledger, 0)
        acknowledged = 1

        async def write() -> None:
            nonlocal acknowledged
            while True:
                await ledger.append(session_id, epoch, acknowledged, generated(acknowledged))
                acknowledged += 1

        writing = asyncio.create_task(write())
        while acknowledged < 50:  # noqa: ASYNC110 - the writer moves on while this waits
            await asyncio.sleep(0)
        server.kill()
        with pytest.raises(Unavailable):
            await writing
        server.start()
        while True:
            try:
                tokens = await ledger.tokens(session_id)
                break
            except Unavailable:
                await asyncio.sleep(0.02)
        assert tokens == list(range(len(tokens)))
        assert len(tokens) in (acknowledged, acknowledged + 1), "the last answer may be lost"


async def test_a_pooler_that_takes_no_transactions_is_refused_at_the_start(
    server: PostgresServer, database: str, pgbouncer: None
) -> None:
    with running_pooler(server, "statement") as pooler:
        with pytest.raises(StartupError, match="transaction blocks not allowed") as refused:
            await open_ledger(pooler.url(database), 0)
        assert len(str(refused.value).splitlines()) == 1


async def test_turns_begin_behind_it_as_anywhere(ledger: PostgresLedger) -> None:
    session_id, epoch = await started_session(ledger, 1)
    await ledger.begin_turn(session_id, epoch, 1, NewTurn("é \U0001f600", (2,)))
    found = await ledger.find_turn(session_id, "é \U0001f600")
    assert found is not None
    assert found.turn_index == 1
