"""The ledger in a PostgreSQL database: for several session services that share their sessions.

Owns the one statement that a round costs. Must not know how connections are kept
(`postgres_pool.py`) and what a database's errors mean (`postgres_faults.py`). All services go by
the database's time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from outrider_server.core.surroundings import random_id

from . import postgres_pool
from .ledger import LedgerToken
from .postgres_pool import PostgresPool
from .sql_ledger import SqlLedger
from .sql_rows import CHUNK_COLUMNS, generated_chunk
from .sql_work import STILL_THERE, MakeWork, Statement

Found = TypeVar("Found")

APPEND = f"""
WITH clock AS MATERIALIZED (SELECT now_us() AS time_us),
fenced AS (
    UPDATE sessions
    SET length = length + ?, updated_us = time_us, expires_us = time_us + ttl_us
    FROM clock
    WHERE session_id = ? AND epoch = ? AND length = ? AND turn_count > 0 AND {STILL_THERE}
    RETURNING session_id, turn_count - 1 AS turn_index, length - ? AS start_position
)
INSERT INTO chunks ({CHUNK_COLUMNS})
SELECT session_id, turn_index, start_position, ?, ?, ? FROM fenced
"""


class PostgresLedger(SqlLedger):
    """A `Ledger` in the tables of one database."""

    def __init__(
        self, pool: PostgresPool, default_ttl_seconds: int, new_id: Callable[[], str]
    ) -> None:
        super().__init__(default_ttl_seconds, new_id)
        self._pool = pool

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        default_ttl_seconds: int = 0,
        call_timeout_ms: int = 5000,
        new_id: Callable[[], str] = random_id,
    ) -> PostgresLedger:
        """Connects, makes the tables where there are none, and brings older ones up to this
        version. A call that takes longer than the timeout is given up as LedgerUnavailable.

        Raises LedgerUnavailable when the database cannot be reached or takes no writes now;
        InvalidRequest for a URL that cannot be read; and LedgerUnusable, leaving the database as it
        is, when it refuses this user, is not in UTF-8, or holds the tables of something else, of a
        newer version, or not all of them. No message holds a password.
        """
        pool = await postgres_pool.opened(url, call_timeout_ms / 1000)
        return cls(pool, default_ttl_seconds, new_id)

    async def aclose(self) -> None:
        """Waits for the writes under way and closes all connections."""
        await self._pool.aclose()

    async def append(
        self, session_id: str, epoch: int, length: int, tokens: Sequence[LedgerToken]
    ) -> None:
        """As `Ledger.append`: one statement and one journey, where the other calls take several.
        Only a refused append asks again, for the reason."""
        if tokens and "\0" not in session_id:
            count = len(tokens)
            parameters = (count, session_id, epoch, length, count, *generated_chunk(tokens))
            if await self._pool.execute(Statement(APPEND, parameters)):
                return
        await super().append(session_id, epoch, length, tokens)

    async def _read(self, make: MakeWork[Found]) -> Found:
        return await self._pool.read(make)

    async def _write(self, make: MakeWork[Found]) -> Found:
        return await self._pool.write(make)
