"""Connections to one PostgreSQL database, the transactions on them, and what its errors mean.

Owns opening, timeouts and recovery. Must not know what the tables hold. A write returns when its
commit is on the database's disk. A database that is gone, or that accepts and never answers, makes
calls fail in bounded time; when it is back, so are they.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from outrider_server.speculation.errors import InternalError, LedgerUnusable, Unavailable

from .postgres_opening import connection_parameters, migrate
from .sql_work import MakeWork, Outcome, Statement, Work

Found = TypeVar("Found")

MAX_CONNECTIONS = 8
MAX_WAITING = 1000
SERVER_SHARE = 0.8
"""Of the timeout: after it the server itself gives a statement up, so that it is not done later,
when the caller has been told that it failed. Only a server that is silent is cut off."""
RECONNECT_SECONDS = 1.0
"""How long one attempt to connect repeats itself; the next call that finds none begins another."""
READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
UNREACHABLE = (
    "the ledger's database cannot be reached, or does not answer; try again when it is back"
)
PASSING = {
    # What a fail-over leaves behind until the address follows it.
    "25006": "the ledger's database is a standby, which takes no writes; try again when it is the primary",
    "53100": "the disk of the ledger's database is full; make room on it, then try again",
    "53300": "the ledger's database has no connection left; try again, or let it have more",
    "55P03": "the ledger's database is locked by another program; try again when it is done",
    "57014": "the ledger's database took too long; try again later",
}
STAYING = {
    "42P01": "a table of the ledger's database is gone; stop the service and restore a backup",
    "42703": "a column of the ledger's database is gone; stop the service and restore a backup",
    "42883": "a function of the ledger's database is gone; stop the service and restore a backup",
    "42501": "the ledger's database does not allow its user to write; grant it, then try again",
}
"""Sentences by SQLSTATE: of faults that may pass, and of those that stay until somebody mends them."""


async def opened(url: str, call_timeout_seconds: float) -> PostgresPool:
    """A pool of connections to a database whose tables are those of this version. Raises as
    `PostgresLedger.open`."""
    parameters = connection_parameters(url)
    await migrate(parameters, call_timeout_seconds)
    pool = PostgresPool(parameters, call_timeout_seconds)
    await pool.start()
    return pool


class PostgresPool:
    """Runs transactions, several at once. Raises Unavailable when the database cannot be reached,
    is read-only, full, or takes longer than the timeout."""

    def __init__(self, parameters: dict[str, Any], call_timeout_seconds: float) -> None:
        self._timeout = call_timeout_seconds
        self._calls: set[asyncio.Task[Any]] = set()
        self._pool = AsyncConnectionPool(
            kwargs={**parameters, "autocommit": True},
            min_size=1,
            max_size=MAX_CONNECTIONS,
            max_waiting=MAX_WAITING,
            timeout=call_timeout_seconds,
            reconnect_timeout=RECONNECT_SECONDS,
            configure=self._configure,
            open=False,
            name="ledger",
        )

    async def start(self) -> None:
        """Connects. Raises Unavailable."""
        with _database_errors():
            try:
                await self._pool.open(wait=True, timeout=self._timeout)
            except BaseException:
                await self._pool.close()
                raise

    async def read(self, make: MakeWork[Found]) -> Found:
        """Runs work all of whose statements see the same state."""
        return await self._to_its_end(self._transact(READ, make))

    async def write(self, make: MakeWork[Found]) -> Found:
        """Runs work and commits it, or nothing of it when it raises."""
        return await self._to_its_end(self._transact(WRITE, make))

    async def execute(self, statement: Statement) -> int:
        """Commits one statement; returns how many rows it changed."""
        return await self._to_its_end(self._execute(statement))

    async def aclose(self) -> None:
        """Waits for the transactions under way and closes all connections."""
        await asyncio.gather(*self._calls, return_exceptions=True)
        await self._pool.close()

    async def _to_its_end(self, call: Coroutine[Any, Any, Found]) -> Found:
        """A caller that is cancelled leaves the call running: it ends by itself, in bounded time,
        and its connection stays clean."""
        task = asyncio.create_task(call)
        self._calls.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio complains of failures that nobody looked at

    async def _transact(self, begin: str, make: MakeWork[Found]) -> Found:
        with _database_errors():
            async with self._connection() as connection:
                await connection.execute(begin)
                try:
                    found = await _run(connection, make())
                    await connection.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(psycopg.Error):
                        await connection.execute("ROLLBACK")
                    raise
                return found

    async def _execute(self, statement: Statement) -> int:
        with _database_errors():
            async with self._connection() as connection:
                cursor = await connection.execute(_dialect(statement.sql), statement.parameters)
                return cursor.rowcount

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection that was alive a moment ago, for at most the timeout."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._timeout
        connection = await self._pool.getconn(self._timeout)
        while _is_dead(connection):
            await connection.close()
            await self._pool.putconn(connection)
            connection = await self._pool.getconn(give_up - loop.time())
        watchdog = loop.call_at(give_up, _cut, connection)
        try:
            yield connection
        finally:
            watchdog.cancel()
            await self._pool.putconn(connection)

    async def _configure(self, connection: AsyncConnection[Any]) -> None:
        """Commits wait for the disk, whatever the database's default; nothing waits for ever, and
        a service that hangs inside a transaction does not keep its locks."""
        milliseconds = str(int(self._timeout * SERVER_SHARE * 1000))
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
            await connection.execute("SELECT set_config(%s, %s, false)", (name, milliseconds))
        await connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )


async def _run(connection: AsyncConnection[Any], work: Work[Found]) -> Found:
    try:
        statement = next(work)
        while True:
            cursor = await connection.execute(_dialect(statement.sql), statement.parameters)
            rows = await cursor.fetchall() if cursor.description else []
            statement = work.send(Outcome(rows, cursor.rowcount))
    except StopIteration as end:
        found: Found = end.value
        return found


@lru_cache(maxsize=256)
def _dialect(sql: str) -> bytes:
    return sql.replace("?", "%s").encode()


def _is_dead(connection: AsyncConnection[Any]) -> bool:
    """True when the server has closed the connection while it was idle: it says so, and an idle
    server says nothing else. So a restart of the database costs no call its first try."""
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _cut(connection: AsyncConnection[Any]) -> None:
    """Ends a connection whose server does not answer. Cancelling the query would have to ask the
    same server; shutting the socket wakes who waits for it."""
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as duplicate,
    ):
        duplicate.shutdown(socket.SHUT_RDWR)


@contextmanager
def _database_errors() -> Iterator[None]:
    """A database that is gone, full, slow or not the primary may pass; anything else is wrong."""
    try:
        yield
    except psycopg.Error as error:
        state = error.sqlstate or ""
        if state in STAYING:
            raise LedgerUnusable(STAYING[state]) from error
        is_away = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        if state in PASSING or is_away:
            raise Unavailable(PASSING.get(state, UNREACHABLE)) from error
        raise InternalError("the ledger's database refused a statement") from error
