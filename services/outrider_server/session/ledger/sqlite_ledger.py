"""The ledger in one SQLite file: for one host, with no service beside it.

Owns how work becomes SQLite's statements. Must not know what they are about, nor on which thread
they run (`sqlite_file.py`). Its time is the host's, without the jumps of the host's clock.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from outrider_server.core.errors import OutriderError
from outrider_server.core.surroundings import random_id

from . import sql_owners
from .sql_ledger import SqlLedger
from .sql_work import MakeWork, Outcome, Work
from .sqlite_file import SqliteFile
from .sqlite_schema import MIGRATIONS
from .steady_clock import SteadyClock

Found = TypeVar("Found")

NOTICED_JUMP_US = 1_000_000


class SqliteLedger(SqlLedger):
    """A `Ledger` in the file at `path`, which is created where it is not there."""

    def __init__(
        self,
        path: Path,
        *,
        default_ttl_seconds: int = 0,
        busy_timeout_ms: int = 5000,
        clock: SteadyClock | None = None,
        new_id: Callable[[], str] = random_id,
        alone: bool = False,
    ) -> None:
        """Opens the file, waiting for the disk, and brings an older one up to this version. Raises
        LedgerUnavailable when that is not possible now, and LedgerUnusable, leaving the file as it is,
        when it cannot be written, holds anything but a ledger, or one of a newer version. `alone` also
        refuses a file that another has open alone; leases that a dead process left are ended by
        `end_leases`."""
        super().__init__(default_ttl_seconds, new_id)
        self._clock = clock or SteadyClock()
        functions = {"now_us": self._clock.now_us}
        self._file = SqliteFile(path, MIGRATIONS, busy_timeout_ms, functions, alone)

    async def sweep(self, limit: int = 100) -> int:
        """As `Ledger.sweep`."""
        await self._follow_clock()
        return await super().sweep(limit)

    async def end_leases(self) -> None:
        """Ends every lease, for who is alone with the file."""
        await self._write(sql_owners.end_leases)

    async def aclose(self) -> None:
        """Waits for the writes under way and closes the file."""
        with contextlib.suppress(OutriderError):
            await self._follow_clock()
        await self._file.aclose()

    async def _follow_clock(self) -> None:
        """After a jump of the host's clock: jumps too, and every session's end with it. Between the two,
        and where the second fails, sessions live longer; never shorter."""
        jump_us = self._clock.jump_us()
        if abs(jump_us) < NOTICED_JUMP_US:
            return
        if jump_us < 0:
            self._clock.follow(jump_us)
        await self._write(lambda: sql_owners.put_off(jump_us))
        if jump_us > 0:
            self._clock.follow(jump_us)

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
