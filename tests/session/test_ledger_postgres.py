"""The PostgreSQL ledger keeps every ledger's promises, and those of a server that may be lost."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import psycopg
import pytest
import uvloop
from outrider_server.core.errors import InternalError, LedgerUnavailable, StartupError, Unavailable
from outrider_server.ledger_opening import open_ledger
from outrider_server.session.ledger import postgres_faults
from outrider_server.session.ledger.ledger import Ledger, NewTurn
from outrider_server.session.ledger.postgres_ledger import PostgresLedger
from outrider_server.session.ledger.postgres_schema import MIGRATIONS, SCHEMA_VERSION
from outrider_server.session.ledger.sql_rows import pack
from outrider_server.session.ledger.sql_work import Statement, Work
from postgres_server import PostgresServer, running_server

from .ledger_conformance import LedgerConformance
from .ledger_fixtures import generated, started_session

PATIENT_MS = 120_000
"""A machine that stands still for a minute fails no call that should succeed."""
SCHEMA_NAMES = (f"test_{number}" for number in itertools.count())
SHIFTED_CLOCK = """
CREATE OR REPLACE FUNCTION {schema}.now_us() RETURNS bigint LANGUAGE sql VOLATILE AS
$$ SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint + {offset_us} $$
"""


@pytest.fixture
def schema(postgres: PostgresServer) -> str:
    """A schema of the test's own."""
    name = next(SCHEMA_NAMES)
    with postgres.connect() as connection:
        connection.execute(f"CREATE SCHEMA {name}".encode())
    return name


async def opened(url: str, default_ttl_seconds: int = 0) -> PostgresLedger:
    return await PostgresLedger.open(
        url, default_ttl_seconds=default_ttl_seconds, call_timeout_ms=PATIENT_MS
    )


class TestPostgresLedger(LedgerConformance):
    @pytest.fixture(autouse=True)
    def _place(self, postgres: PostgresServer, schema: str) -> None:
        self.server, self.schema, self.offset_us = postgres, schema, 0

    async def open_store(self, folder: Path, default_ttl_seconds: int = 0) -> Ledger:
        return await opened(self.server.url(self.schema), default_ttl_seconds=default_ttl_seconds)

    def pass_time(self, seconds: float) -> None:
        self.offset_us += int(seconds * 1_000_000)
        clock = SHIFTED_CLOCK.format(schema=self.schema, offset_us=self.offset_us)
        with self.server.connect() as connection:
            connection.execute(clock.encode())


@pytest.fixture
async def ledger(postgres: PostgresServer, schema: str) -> AsyncIterator[PostgresLedger]:
    async with aclosing(await opened(postgres.url(schema))) as store:
        yield store


@pytest.fixture
def own_server(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server that a test may kill."""
    with running_server() as server:
        yield server


@contextmanager
def impatient(ledger: PostgresLedger) -> Iterator[None]:
    """Calls that cannot succeed are given up soon."""
    pool = ledger._pool
    patient, pool._timeout = pool._timeout, 0.2
    try:
        yield
    finally:
        pool._timeout = patient


async def recovered(write: Callable[[], object]) -> int:
    """Repeats a call until the database takes it again; returns how often it failed."""
    for failures in itertools.count():
        try:
            await write()  # type: ignore[misc]
            return failures
        except Unavailable:
            await asyncio.sleep(0.02)
    raise AssertionError


@pytest.mark.parametrize("way", ["kill", "stop"])
async def test_a_database_that_dies_is_try_later_and_recovers_without_help(
    own_server: PostgresServer, way: str
) -> None:
    async with aclosing(await opened(own_server.url())) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        getattr(own_server, way)()
        calls = [
            ledger.append(session_id, epoch, 1, generated(2)),
            ledger.get_session(session_id, ""),
            ledger.create_session("", "model"),
        ]
        for call in calls:
            with impatient(ledger), pytest.raises(Unavailable):
                await call
        own_server.start()
        await recovered(lambda: ledger.append(session_id, epoch, 1, generated(3)))
        assert await ledger.tokens(session_id) == [1, 3]


async def test_a_restart_between_two_calls_fails_neither(own_server: PostgresServer) -> None:
    async with aclosing(await opened(own_server.url())) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        await asyncio.gather(*(ledger.get_session(session_id, "") for _ in range(20)))
        own_server.stop()
        own_server.start()
        await ledger.append(session_id, epoch, 1, generated(2))
        assert await ledger.tokens(session_id) == [1, 2]


async def test_killing_the_server_in_a_stream_of_appends_loses_nothing_acknowledged(
    own_server: PostgresServer,
) -> None:
    async with aclosing(await opened(own_server.url())) as ledger:
        session_id, epoch = await started_session(ledger, 0)
        acknowledged = 1

        async def write() -> None:
            nonlocal acknowledged
            while True:
                tokens = range(acknowledged, acknowledged + 3)
                await ledger.append(session_id, epoch, acknowledged, generated(*tokens))
                acknowledged += 3

        writing = asyncio.create_task(write())
        while acknowledged < 150:  # noqa: ASYNC110 - the writer moves on while this waits
            await asyncio.sleep(0)
        own_server.kill()
        with impatient(ledger), pytest.raises(Unavailable):
            await writing
        own_server.start()
        await recovered(lambda: ledger.tokens(session_id))
        tokens = await ledger.tokens(session_id)
        assert tokens == list(range(len(tokens)))
        assert len(tokens) in (acknowledged, acknowledged + 3), "the last answer may be lost"
        await ledger.append(session_id, epoch, len(tokens), generated(7))


async def test_a_server_that_hangs_is_try_later_and_others_are_served(
    postgres: PostgresServer, schema: str
) -> None:
    async with aclosing(await opened(postgres.url(schema))) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        (connection,) = ledger._pool._pool._pool
        process = connection.info.backend_pid
        os.kill(process, signal.SIGSTOP)
        try:
            with impatient(ledger), pytest.raises(Unavailable):
                await ledger.append(session_id, epoch, 1, generated(2))
            assert await ledger.tokens(session_id) == [1]
        finally:
            os.kill(process, signal.SIGCONT)
        length = (await ledger.get_session(session_id, "")).length
        await recovered(lambda: ledger.get_session(session_id, ""))
        assert length in (1, 2), "what the server was told it may do when it wakes"


def asking(sql: str) -> Callable[[], Work[object]]:
    """Work that asks for one value."""

    def ask() -> Work[object]:
        found = yield Statement(sql)
        return found.rows[0][0]

    return ask


async def test_a_server_gives_up_before_its_client_and_a_lock_before_anything_else(
    ledger: PostgresLedger,
) -> None:
    for run in (ledger._pool.read, ledger._pool.write):
        assert await run(asking("SHOW statement_timeout")) == "96s"
        assert await run(asking("SHOW idle_in_transaction_session_timeout")) == "96s"
        assert await run(asking("SHOW lock_timeout")) == "84s"


async def test_a_row_that_stays_locked_is_try_later_and_writes_nothing_then_or_later(
    ledger: PostgresLedger, postgres: PostgresServer, schema: str
) -> None:
    session_id, epoch = await started_session(ledger, 1)
    with psycopg.connect(postgres.url(schema)) as other, impatient(ledger):
        other.execute("SELECT 1 FROM sessions FOR UPDATE")
        with pytest.raises(LedgerUnavailable):
            await ledger.append(session_id, epoch, 1, generated(2))
        with pytest.raises(LedgerUnavailable):
            await ledger.rewind(session_id, epoch, 1, 0)
    assert await ledger.tokens(session_id) == [1]
    await ledger.append(session_id, epoch, 1, generated(2))


async def test_a_cancelled_call_leaves_its_connection_clean(
    ledger: PostgresLedger, postgres: PostgresServer, schema: str
) -> None:
    session_id, epoch = await started_session(ledger, 1)
    with psycopg.connect(postgres.url(schema)) as other:
        other.execute("SELECT 1 FROM sessions FOR UPDATE")
        calls = [
            asyncio.create_task(ledger.append(session_id, epoch, 1, generated(2)))
            for _ in range(20)
        ]
        await asyncio.sleep(0)  # let them begin
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    length = (await ledger.get_session(session_id, "")).length
    await recovered(lambda: ledger.get_session(session_id, ""))
    await asyncio.gather(*ledger._pool._calls, return_exceptions=True)
    assert await ledger.tokens(session_id) in ([1], [1, 2])
    assert length in (1, 2)


async def test_a_role_that_is_read_only_by_default_writes_all_the_same(
    postgres: PostgresServer, schema: str
) -> None:
    url = f"{postgres.url(schema)}%20-cdefault_transaction_read_only%3Don"
    async with aclosing(await opened(url)) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        await ledger.append(session_id, epoch, 1, generated(2))
        assert await ledger.tokens(session_id) == [1, 2]


@pytest.mark.parametrize(
    ("default", "kept"), [("off", "on"), ("on", "on"), ("remote_apply", "remote_apply")]
)
async def test_commits_wait_for_the_disk_whatever_the_databases_default(
    postgres: PostgresServer, schema: str, default: str, kept: str
) -> None:
    url = f"{postgres.url(schema)}%20-csynchronous_commit%3D{default}"
    async with aclosing(await opened(url)) as ledger:
        assert await ledger._pool.write(asking("SHOW synchronous_commit")) == kept


async def test_many_that_open_a_new_database_at_once_all_succeed(
    postgres: PostgresServer, schema: str
) -> None:
    ledgers = await asyncio.gather(*(opened(postgres.url(schema)) for _ in range(6)))
    session = await ledgers[0].create_session("", "model")
    for ledger in ledgers:
        assert await ledger.get_session(session.session_id, "") == session
        await ledger.aclose()


async def test_everything_survives_reopening(postgres: PostgresServer, schema: str) -> None:
    async with aclosing(await opened(postgres.url(schema))) as ledger:
        session_id, _ = await started_session(ledger, 1, 2)
    async with aclosing(await opened(postgres.url(schema))) as ledger:
        assert await ledger.tokens(session_id) == [1, 2]


def test_the_pool_works_on_the_loop_that_the_services_run_on(
    postgres: PostgresServer, schema: str
) -> None:
    async def work() -> list[int]:
        async with aclosing(await opened(postgres.url(schema))) as ledger:
            sessions = [await started_session(ledger, number) for number in range(20)]
            await asyncio.gather(
                *(ledger.append(name, epoch, 1, generated(7)) for name, epoch in sessions)
            )
            return await ledger.tokens(sessions[4][0])

    assert uvloop.run(work()) == [4, 7]


async def test_a_database_of_the_first_schema_is_migrated_with_all_it_holds(
    postgres: PostgresServer, schema: str
) -> None:
    with psycopg.connect(postgres.url(schema), autocommit=True) as connection:
        for statement in MIGRATIONS[0]:
            connection.execute(statement.encode())
        connection.execute("UPDATE outrider_schema SET version = 1")
        connection.execute(
            "INSERT INTO sessions VALUES ('s', 'ada', 'model', 2, 7, 2, 1, 1, NULL, NULL, '', 0)"
        )
        connection.execute("INSERT INTO turns VALUES ('s', 0, 'first', 0, 3, '{}', 'length', 0)")
        connection.execute("INSERT INTO turns VALUES ('s', 1, 'second', 6, 1, '{}', NULL, 0)")
        for start, tokens, sources in (
            (0, (1, 2, 3), None),
            (3, (4, 5), b"\1\1"),
            (5, (6,), b"\1"),
            (6, (7,), None),
        ):
            connection.execute(
                "INSERT INTO chunks VALUES ('s', %s, %s, %s, NULL)", (start, pack(tokens), sources)
            )
    for _ in range(2):  # migrated once, then as any other
        async with aclosing(await opened(postgres.url(schema))) as ledger:
            assert await ledger.tokens("s") == [1, 2, 3, 4, 5, 6, 7]
            assert await ledger.turn_tokens("s", 0) == generated(4, 5, 6)
            assert [turn.chat for turn in await ledger.turns("s")] == [None, None]
    async with aclosing(await opened(postgres.url(schema))) as ledger:
        epoch = (await ledger.take_over("s")).epoch
        await ledger.append("s", epoch, 7, generated(8))
        await ledger.begin_turn("s", epoch, 8, NewTurn("third", (9,), start_position=4))
        assert await ledger.tokens("s") == [1, 2, 3, 4, 9]
        assert await ledger.turn_tokens("s", 1) == generated(8)


async def test_a_newer_schema_is_refused_and_left_alone(
    ledger: PostgresLedger, postgres: PostgresServer, schema: str
) -> None:
    with psycopg.connect(postgres.url(schema), autocommit=True) as connection:
        connection.execute("UPDATE outrider_schema SET version = %s", (SCHEMA_VERSION + 1,))
        with pytest.raises(InternalError, match=rf"newer.*schema {SCHEMA_VERSION + 1}"):
            await opened(postgres.url(schema))
        assert connection.execute("SELECT version FROM outrider_schema").fetchall() == [
            (SCHEMA_VERSION + 1,)
        ]


async def test_the_tables_of_something_else_are_refused_and_left_alone(
    postgres: PostgresServer, schema: str
) -> None:
    with psycopg.connect(postgres.url(schema), autocommit=True) as connection:
        connection.execute("CREATE TABLE sessions (anything text)")
        with pytest.raises(StartupError, match="tables that are not Outrider's") as refused:
            await open_ledger(postgres.url(schema), 0)
        assert len(str(refused.value).splitlines()) == 1
        found = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", (schema,)
        )
        assert found.fetchall() == [("sessions",)]


async def test_a_user_without_rights_is_told_so(postgres: PostgresServer, schema: str) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO reader".encode())
    url = postgres.url(schema).replace("postgres@", "reader:geheim@", 1)
    with pytest.raises(StartupError, match="permission denied") as refused:
        await open_ledger(url, 0)
    assert "geheim" not in str(refused.value)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        ("ALTER TABLE turns DROP COLUMN reply", 'column "reply" does not exist; restore a backup'),
        ("DROP FUNCTION now_us", r"function now_us\(\) does not exist; restore a backup"),
        ("DROP TABLE chunks", r"tables of the database are gone \(chunks\); restore a backup"),
    ],
)
async def test_what_is_missing_is_told_at_the_start(
    postgres: PostgresServer, schema: str, spoil: str, says: str
) -> None:
    await (await opened(postgres.url(schema))).aclose()
    with psycopg.connect(postgres.url(schema), autocommit=True) as connection:
        connection.execute(spoil.encode())
    with pytest.raises(StartupError, match=says) as refused:
        await open_ledger(postgres.url(schema), 0)
    assert len(str(refused.value).splitlines()) == 1


async def test_rights_that_the_user_lacks_are_named_at_the_start(
    postgres: PostgresServer, schema: str
) -> None:
    await (await opened(postgres.url(schema))).aclose()
    with psycopg.connect(postgres.url(schema), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE partial_{schema} LOGIN".encode())
        connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO partial_{schema}".encode())
        connection.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema}"
            f" TO partial_{schema}".encode()
        )
        connection.execute(f"REVOKE INSERT, DELETE ON chunks FROM partial_{schema}".encode())
        url = postgres.url(schema).replace("postgres@", f"partial_{schema}@", 1)
        with pytest.raises(
            StartupError, match=r"GRANT (INSERT|DELETE) on chunks, (INSERT|DELETE) on"
        ):
            await open_ledger(url, 0)
        connection.execute(f"GRANT INSERT, DELETE ON chunks TO partial_{schema}".encode())
    async with aclosing(await opened(url)) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        await ledger.append(session_id, epoch, 1, generated(2))


async def test_tables_that_are_locked_at_the_start_are_told_as_locked(
    postgres: PostgresServer, schema: str
) -> None:
    await (await opened(postgres.url(schema))).aclose()
    with psycopg.connect(postgres.url(schema)) as other:
        other.execute("LOCK TABLE outrider_schema IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(LedgerUnavailable, match="locked by another program"):
            await PostgresLedger.open(postgres.url(schema), call_timeout_ms=500)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
async def test_a_database_that_cannot_hold_any_text_is_refused(
    postgres: PostgresServer, encoding: str
) -> None:
    with postgres.connect() as connection:
        connection.execute(
            f"CREATE DATABASE of_{encoding} ENCODING '{encoding}' TEMPLATE template0".encode()
        )
    url = postgres.url().replace("/postgres?", f"/of_{encoding.lower()}?")
    for _ in range(2):
        with pytest.raises(StartupError, match=f"encoding is {encoding}, .*ENCODING 'UTF8'"):
            await open_ledger(url, 0)


@pytest.mark.parametrize("where", ["environment", "url"])
async def test_texts_are_unicode_whatever_a_client_is_told_to_speak(
    postgres: PostgresServer, schema: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.url(schema)
    if where == "environment":
        monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    else:
        url += "&client_encoding=LATIN1"
    async with aclosing(await opened(url)) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        await ledger.begin_turn(session_id, epoch, 1, NewTurn("\U0001f600 \u4e2d", (2,)))
        assert (await ledger.turns(session_id))[1].request_id == "\U0001f600 \u4e2d"


@pytest.mark.parametrize("status", ["ROLLBACK", None])
def test_only_the_word_commit_is_a_commit(status: str | None) -> None:
    with pytest.raises(LedgerUnavailable):
        postgres_faults.check_committed(status)
    postgres_faults.check_committed("COMMIT")


@pytest.mark.parametrize("gone", [True, False])
async def test_a_connection_to_what_is_no_primary_any_more_is_given_up(
    ledger: PostgresLedger, gone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told by the state of an error; that of a division by zero plays its part here."""
    if gone:
        monkeypatch.setattr(postgres_faults, "STANDBY_STATES", ("22012",))
    before = await ledger._pool.write(asking("SELECT pg_backend_pid()"))
    kind = LedgerUnavailable if gone else InternalError
    with pytest.raises(kind):
        await ledger._pool.write(asking("SELECT 1 / 0"))
    after = await ledger._pool.write(asking("SELECT pg_backend_pid()"))
    assert (after != before) is gone
