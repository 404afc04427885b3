"""The ledger in one SQLite file: for one host, with no service beside it.

Owns how work becomes SQLite's statements. Must not know what they are about, nor on which thread
they run (`sqlite_file.py`). Several processes may open the same file; its time is the host's.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from .sql_ledger import SqlLedger, random_id
from .sql_work import MakeWork, Outcome, Work
from .sqlite_file import SqliteFile
from .sqlite_schema import MIGRATIONS

Found = TypeVar("Found")


class SqliteLedger(SqlLedger):
    """A `Ledger` in the file at `path`, which is created where it is not there."""

    def __init__(
        self,
        path: Path,
        *,
        default_ttl_seconds: int = 0,
        busy_timeout_ms: int = 5000,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        new_id: Callable[[], str] = random_id,
    ) -> None:
        """Opens the file, waiting for the disk, and brings an older one up to this version. Raises
        Unavailable when that is not possible now, and LedgerUnusable, leaving the file as it is,
        when it cannot be written, holds anything but a ledger, or one of a newer version."""
        super().__init__(default_ttl_seconds, new_id)
        self._file = SqliteFile(path, MIGRATIONS, busy_timeout_ms, {"now_us": now_us})

    async def aclose(self) -> None:
        """Waits for the writes under way and closes the file."""
        await self._file.aclose()

    async def _read(self, make: MakeWork[Found]) -> Found:
        return await self._file.read(lambda connection: _run(connection, make()))

    async def _write(self, make: MakeWork[Found]) -> Found:
        return await self._file.write(lambda connection: _run(connection, make()))


def _run(connection: sqlite3.Connection, work: Work[Found]) -> Found:
    try:
        statement = next(work)
        while True:
            cursor = connection.execute(_dialect(statement.sql), statement.parameters)
            statement = work.send(Outcome(cursor.fetchall(), cursor.rowcount))
    except StopIteration as end:
        found: Found = end.value
        return found


@lru_cache(maxsize=256)
def _dialect(sql: str) -> str:
    """SQLite locks the whole file before a write, and knows no locks of rows."""
    return sql.removesuffix(" SKIP LOCKED").removesuffix(" FOR UPDATE")
