"""One SQLite file and the one thread that touches it, so that no disk wait reaches the event loop.

Owns opening, versions, transactions and what the errors of the store mean. Must not know what the
tables hold. Write-ahead log with `synchronous=FULL`: a write returns when its commit is on the
disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from outrider_server.core.errors import LedgerUnusable

from .sqlite_faults import store_errors

Result = TypeVar("Result")
Migrations = Sequence[Sequence[str]]
"""Step N turns schema N - 1 into schema N."""
NO_FILE = "it is a folder, or no file at all; name a file"
Write = tuple[Callable[[sqlite3.Connection], Any], Future[Any]]


class SqliteFile:
    """Runs transactions one after the other. Raises LedgerUnavailable, with nothing changed, when the
    file is locked for longer than the timeout, or the disk is full or fails, and LedgerUnusable when
    the file is read-only, damaged or lacks its tables."""

    def __init__(
        self,
        path: Path,
        migrations: Migrations,
        busy_timeout_ms: int,
        functions: Mapping[str, Callable[[], int]],
        alone: bool = False,
    ) -> None:
        """Opens the file, and runs the migrations that it has not seen, all of them in a new one.
        Raises LedgerUnusable, leaving the file as it is, when it has seen others, or when two who are
        to be `alone` with it open it. Statements may call `functions` by their names."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")
        self._waiting: deque[Write] = deque()
        self._lock = _lock(path) if alone else None
        opening = self._thread.submit(_open, path, migrations, busy_timeout_ms, functions)
        try:
            self._connection = opening.result()
        except BaseException:
            self._end()
            raise

    async def read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Runs `work`, all of whose queries see the same state."""
        return await asyncio.wrap_future(self._thread.submit(self._transact, "BEGIN", work))

    async def write(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Runs `work` while no other writer does; commits it, or nothing of it when it raises.

        Writes that wait for the disk are committed together, each for itself all or nothing.
        """
        outcome: Future[Result] = Future()
        self._waiting.append((work, outcome))
        self._thread.submit(self._write_waiting)
        return await asyncio.wrap_future(outcome)

    async def aclose(self) -> None:
        """Waits for the transactions under way and closes the file."""
        await asyncio.wrap_future(self._thread.submit(self._connection.close))
        self._end()

    def _end(self) -> None:
        self._thread.shutdown()
        if self._lock is not None:
            os.close(self._lock)

    def _transact(self, begin: str, work: Callable[[sqlite3.Connection], Result]) -> Result:
        with store_errors(), _transaction(self._connection, begin):
            return work(self._connection)

    def _write_waiting(self) -> None:
        waiting: list[Write] = []
        while self._waiting:
            write = self._waiting.popleft()
            if write[1].set_running_or_notify_cancel():
                waiting.append(write)
        if len(waiting) > 1 and self._write_together(waiting):
            return
        for work, outcome in waiting:
            try:
                outcome.set_result(self._transact("BEGIN IMMEDIATE", work))
            except BaseException as error:
                outcome.set_exception(error)

    def _write_together(self, waiting: Sequence[Write]) -> bool:
        """Commits writes as one; False, with nothing written, when the store fails one of them."""
        try:
            with _transaction(self._connection, "BEGIN IMMEDIATE"):
                results = [_attempt(self._connection, work) for work, _ in waiting]
        except sqlite3.Error:
            return False
        for (_, outcome), (result, error) in zip(waiting, results, strict=True):
            if error is None:
                outcome.set_result(result)
            else:
                outcome.set_exception(error)
        return True


def _lock(path: Path) -> int:
    """The descriptor of a lock that is the caller's until it closes it or dies. Beside the file, because
    closing a second descriptor of the file itself would end SQLite's own locks on it."""
    if path.is_dir():
        raise LedgerUnusable(NO_FILE)
    with store_errors():
        descriptor = os.open(f"{path.resolve()}-lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LedgerUnusable(
            "another service has it open; give each a file of its own, or all of them one PostgreSQL"
            " database"
        ) from error
    return descriptor


def _open(
    path: Path,
    migrations: Migrations,
    busy_timeout_ms: int,
    functions: Mapping[str, Callable[[], int]],
) -> sqlite3.Connection:
    if path.exists() and not path.is_file():
        raise LedgerUnusable(NO_FILE)
    with store_errors():
        connection = sqlite3.connect(path, timeout=busy_timeout_ms / 1000, isolation_level=None)
    try:
        with store_errors():
            with _transaction(connection, "BEGIN"):
                _schema_version(connection, path, len(migrations))
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            for name, function in functions.items():
                connection.create_function(name, 0, function)
            with _transaction(connection, "BEGIN IMMEDIATE"):
                found = _schema_version(connection, path, len(migrations))
                for statement in chain.from_iterable(migrations[found:]):
                    connection.execute(statement)
                if found < len(migrations):
                    connection.execute(f"PRAGMA user_version = {len(migrations)}")
                _check_columns(connection, migrations)
    except BaseException:
        connection.close()
        raise
    return connection


def _schema_version(connection: sqlite3.Connection, path: Path, known: int) -> int:
    """The number of migrations that the file has seen; raises for a file that is no ledger of this
    version or an older one."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if found > known:
        raise LedgerUnusable(
            f"{path} was written by a newer Outrider (schema {found}; this one knows {known})"
        )
    if bool(found) != bool(tables):
        raise LedgerUnusable(f"{path} is no file of Outrider's")
    return int(found)


def _check_columns(connection: sqlite3.Connection, migrations: Migrations) -> None:
    """Raises LedgerUnusable for a file that lacks what the migrations make."""
    with closing(sqlite3.connect(":memory:")) as model:
        for statement in chain.from_iterable(migrations):
            model.execute(statement)
        missing = _columns(model) - _columns(connection)
    if missing:
        tables = ", ".join(sorted({table for table, _ in missing}))
        raise LedgerUnusable(
            f"columns of its tables are gone ({tables}); put a backup in the file's place"
        )


def _columns(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    found = connection.execute(
        "SELECT tables.name, columns.name FROM sqlite_schema AS tables"
        " JOIN pragma_table_info(tables.name) AS columns WHERE tables.type = 'table'"
    )
    return set(found)


def _attempt(
    connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], Any]
) -> tuple[Any, Exception | None]:
    """What `work` returns, or what it raises after undoing it. Raises sqlite3.Error."""
    connection.execute("SAVEPOINT one")
    try:
        result = work(connection)
    except sqlite3.Error:
        raise
    except Exception as error:
        connection.execute("ROLLBACK TO one")
        connection.execute("RELEASE one")
        return None, error
    connection.execute("RELEASE one")
    return result, None


@contextmanager
def _transaction(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has already rolled back after some failures of the disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
