"""The ledger of a simulation: the real statements over SQLite in memory, reached late and not always.

Owns the store, which alone outlives the processes. Each call is one step between two waits, so that a caller
that dies may have written or not, and one whose answer is lost has written.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from outrider_server.session.ledger import (
    sql_owners,
    sql_reads,
    sql_writes,
    sqlite_file,
    sqlite_ledger,
)
from outrider_server.session.ledger.ledger import (
    Lease,
    LedgerToken,
    NewTurn,
    SessionRecord,
    TurnRecord,
)
from outrider_server.session.ledger.sql_ledger import SqlLedger
from outrider_server.session.ledger.sql_rows import generated_chunk
from outrider_server.session.ledger.sql_work import MakeWork, Work
from outrider_server.session.ledger.sqlite_schema import MIGRATIONS

Found = TypeVar("Found")


class Watcher(Protocol):
    """Is told of every write, in the step that makes it."""

    def owned(self, session_id: str, epoch: int) -> None: ...
    def prompted(self, record: TurnRecord, epoch: int, held: Sequence[int]) -> None: ...
    def appended(
        self, session_id: str, epoch: int, length: int, held: Sequence[LedgerToken]
    ) -> None: ...
    def rewound(self, record: SessionRecord, epoch: int, held: Sequence[int]) -> None: ...
    def taken_back(
        self, record: SessionRecord, epoch: int, turn_index: int, held: Sequence[int]
    ) -> None: ...
    def forked(self, session_id: str, copy: SessionRecord, held: Sequence[int]) -> None: ...


class MemoryStore:
    """All sessions of a cluster. `now_us` counts microseconds since 1970."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self._connection = sqlite_file._open(Path(":memory:"), MIGRATIONS, 0, {"now_us": now_us})
        self._numbers = itertools.count(1)

    def new_id(self) -> str:
        """Counts what is made."""
        return f"made-{next(self._numbers)}"

    def read(self, work: Work[Found]) -> Found:
        """What the work finds."""
        return sqlite_ledger._run(self._connection, work)

    def write(self, work: Work[Found]) -> Found:
        """Commits the work, or nothing of it."""
        with sqlite_file._transaction(self._connection, "BEGIN"):
            return sqlite_ledger._run(self._connection, work)

    def close(self) -> None:
        """Forgets everything."""
        self._connection.close()

    def last_turn(self, session_id: str) -> list[LedgerToken]:
        """What the session's last turn has generated."""
        count = self.read(sql_reads.read_session(session_id)).turn_count
        return self.read(sql_reads.turn_tokens(session_id, count - 1, 0))


async def _soon() -> None:
    await asyncio.sleep(0)


class SimulatedLedger(SqlLedger):
    """A `Ledger`. `before` is awaited before each call's step and `after` after it; both may raise."""

    def __init__(
        self,
        store: MemoryStore,
        watcher: Watcher | None = None,
        before: Callable[[], Awaitable[None]] = _soon,
        after: Callable[[], Awaitable[None]] = _soon,
        default_ttl_seconds: int = 0,
    ) -> None:
        super().__init__(default_ttl_seconds, store.new_id)
        self._store = store
        self._watcher = watcher
        self._before = before
        self._after = after

    async def aclose(self) -> None:
        """Nothing is open."""

    async def _read(self, make: MakeWork[Found]) -> Found:
        await self._before()
        found = self._store.read(make())
        await self._after()
        return found

    async def _write(
        self, make: MakeWork[Found], tell: Callable[[Watcher, Found], Any] | None = None
    ) -> Found:
        await self._before()
        found = self._store.write(make())
        if tell is not None and self._watcher is not None:
            tell(self._watcher, found)
        await self._after()
        return found

    async def take_over(
        self,
        session_id: str,
        holder: str = "",
        lease_seconds: float | None = 0.0,
        *,
        force: bool = False,
    ) -> Lease:
        return await self._write(
            lambda: sql_owners.take_over(session_id, holder, lease_seconds, force),
            lambda watcher, lease: watcher.owned(session_id, lease.epoch),
        )

    async def begin_turn(
        self, session_id: str, epoch: int, length: int, turn: NewTurn
    ) -> TurnRecord:
        return await self._write(
            lambda: sql_writes.begin_turn(session_id, epoch, length, turn),
            lambda watcher, record: watcher.prompted(record, epoch, self._held(session_id)),
        )

    async def append(
        self, session_id: str, epoch: int, length: int, tokens: Sequence[LedgerToken]
    ) -> None:
        chunk = generated_chunk(tokens)
        await self._write(
            lambda: sql_writes.append(session_id, epoch, length, chunk),
            lambda watcher, _: watcher.appended(
                session_id, epoch, length, self._store.last_turn(session_id)
            ),
        )

    async def rewind(
        self, session_id: str, epoch: int, length: int, to_position: int
    ) -> SessionRecord:
        return await self._write(
            lambda: sql_writes.rewind(session_id, epoch, length, to_position),
            lambda watcher, record: watcher.rewound(record, epoch, self._held(session_id)),
        )

    async def take_back(
        self, session_id: str, epoch: int, length: int, turn_index: int
    ) -> SessionRecord:
        return await self._write(
            lambda: sql_writes.take_back(session_id, epoch, length, turn_index),
            lambda watcher, record: watcher.taken_back(
                record, epoch, turn_index, self._held(session_id)
            ),
        )

    async def fork(
        self, session_id: str, owner: str, at_position: int | None = None
    ) -> SessionRecord:
        return await self._write(
            lambda: sql_writes.fork(session_id, owner, at_position, self._new_id),
            lambda watcher, copy: watcher.forked(session_id, copy, self._held(copy.session_id)),
        )

    def _held(self, session_id: str) -> list[int]:
        return self._store.read(sql_reads.tokens(session_id, 0))
