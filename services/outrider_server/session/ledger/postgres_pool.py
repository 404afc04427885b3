"""Connections to one PostgreSQL database, and the transactions on them.

Owns opening, timeouts and recovery. Must not know what the tables hold, nor what errors mean
(`postgres_faults.py`). A write returns when its commit is on the database's disk. A database that is gone, or
that accepts and never answers, makes calls fail in bounded time; when it is back, so are they.

Nothing outlives its transaction on the server: no prepared statement, no setting, no lock. So a pooler that
gives each transaction another connection of its own may stand in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool

from .postgres_faults import Faults, check_committed, is_standby
from .postgres_opening import WRITE, migrate
from .postgres_url import connection_parameters
from .sql_work import MakeWork, Outcome, Statement, Work

Found = TypeVar("Found")

MAX_CONNECTIONS = 8
MAX_WAITING = 1000
SERVER_SHARE = 0.8
"""Of the timeout: after it the server itself gives a statement up, so that it is not done later,
when the caller has been told that it failed. Only a server that is silent is cut off."""
CONNECTION_SHARE = 0.8
"""Of the timeout: after it a call that has no connection ends, so that its caller hears why there is none."""
RECONNECT_SECONDS = 1.0
"""How long one attempt to connect repeats itself; the next call that finds none begins another."""
READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
TO_DISK = (
    "SELECT set_config('synchronous_commit', 'on', true)"
    " WHERE current_setting('synchronous_commit') = 'off'"
)
"""A commit waits for the disk, whatever the database's default."""
TIMEOUTS = {
    "lock_timeout": 0.7,
    "statement_timeout": SERVER_SHARE,
    "idle_in_transaction_session_timeout": SERVER_SHARE,
}
"""Shares of the timeout: nothing waits for ever, who waits for a lock hears that it was one, and a
service that hangs inside a transaction does not keep its locks."""


async def opened(url: str, call_timeout_seconds: float) -> PostgresPool:
    """A pool of connections to a database whose tables are those of this version. Raises as
    `PostgresLedger.open`."""
    parameters = connection_parameters(url)
    await migrate(parameters, call_timeout_seconds)
    pool = PostgresPool(parameters, call_timeout_seconds)
    await pool.start()
    return pool


class PostgresPool:
    """Runs transactions, several at once. Raises LedgerUnavailable when the database cannot be reached,
    is read-only, full, or takes longer than the timeout, and LedgerUnusable when it has to be mended."""

    def __init__(self, parameters: dict[str, Any], call_timeout_seconds: float) -> None:
        self._timeout = call_timeout_seconds
        self._calls: set[asyncio.Task[Any]] = set()
        self._faults = Faults(str(parameters.get("password") or ""))
        self._pool = AsyncConnectionPool(
            kwargs={**parameters, "autocommit": True, "prepare_threshold": None},
            connection_class=_telling(self._faults),
            min_size=1,
            max_size=MAX_CONNECTIONS,
            max_waiting=MAX_WAITING,
            timeout=call_timeout_seconds,
            reconnect_timeout=RECONNECT_SECONDS,
            open=False,
            name="ledger",
        )

    async def start(self) -> None:
        """Connects. Raises LedgerUnavailable."""
        with self._faults.translated():
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
        """Commits one statement, in one journey; returns how many rows it changed."""
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
        with self._faults.translated():
            async with self._connection() as connection:
                await connection.execute(self._begin(begin).encode())
                found = await _run(connection, make())
                check_committed((await connection.execute("COMMIT")).statusmessage)
                return found

    async def _execute(self, statement: Statement) -> int:
        with self._faults.translated():
            async with self._connection() as connection:
                # The values stand in the text, because only a text may hold several statements.
                cursor = AsyncClientCursor(connection)
                text = f"{self._begin(WRITE)};".encode() + _dialect(statement.sql) + b";COMMIT"
                await cursor.execute(text, statement.parameters)
                ends = [(cursor.rowcount, cursor.statusmessage)]
                while cursor.nextset():
                    ends.append((cursor.rowcount, cursor.statusmessage))
                check_committed(ends[-1][1])
                return ends[-2][0]

    def _begin(self, begin: str) -> str:
        """Begins a transaction with all that it needs, in one text."""
        milliseconds = self._timeout * 1000
        limits = [
            f"SET LOCAL {name} = {max(1, round(share * milliseconds))}"
            for name, share in TIMEOUTS.items()
        ]
        return ";".join([begin, *limits, *([TO_DISK] if begin is WRITE else [])])

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection that was alive a moment ago, for at most the timeout and one transaction, which is
        undone when it fails."""
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._timeout
        connection = await self._pool.getconn(self._timeout * CONNECTION_SHARE)
        while _is_dead(connection):
            await connection.close()
            await self._pool.putconn(connection)
            connection = await self._pool.getconn(give_up - loop.time())
        watchdog = loop.call_at(give_up, _cut, connection)
        try:
            yield connection
        except BaseException as error:
            with contextlib.suppress(psycopg.Error):
                if connection.info.transaction_status is not TransactionStatus.IDLE:
                    await connection.execute("ROLLBACK")
            if isinstance(error, psycopg.Error) and is_standby(error):
                await connection.close()  # another address may lead to the primary by now
            raise
        finally:
            watchdog.cancel()
            await self._pool.putconn(connection)


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


def _telling(faults: Faults) -> type[AsyncConnection[Any]]:
    """Connections whose failures to connect are logged, which their pool keeps to itself."""

    class TellingConnection(AsyncConnection[Any]):
        @classmethod
        async def connect(cls, *arguments: Any, **named: Any) -> Any:
            try:
                connection = await super().connect(*arguments, **named)
            except psycopg.Error as error:
                faults.not_connected(error)
                raise
            faults.connected()
            return connection

    return TellingConnection
