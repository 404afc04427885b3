"""The ledger over any SQL store: each call is one transaction's worth of work.

Owns nothing but ids and the default life of sessions. Must not know which store it is; a store says
in a subclass how it runs work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from outrider_server.core.types import FinishReason

from . import sql_owners, sql_reads, sql_writes
from .ledger import Lease, LedgerToken, NewTurn, SessionPage, SessionRecord, TurnRecord
from .sql_rows import generated_chunk
from .sql_work import MakeWork, read_session

Found = TypeVar("Found")


class SqlLedger:
    """A `Ledger`; the protocol says what each call promises."""

    def __init__(self, default_ttl_seconds: int, new_id: Callable[[], str]) -> None:
        self._default_ttl_seconds = default_ttl_seconds
        self._new_id = new_id

    async def _read(self, make: MakeWork[Found]) -> Found:
        """Runs work all of whose statements see the same state."""
        raise NotImplementedError

    async def _write(self, make: MakeWork[Found]) -> Found:
        """Runs work and commits it, or nothing of it when it raises."""
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError

    async def create_session(
        self, owner: str, model_fingerprint: str, ttl_seconds: int | None = None
    ) -> SessionRecord:
        ttl = self._default_ttl_seconds if ttl_seconds is None else ttl_seconds
        session_id = self._new_id()
        return await self._write(
            lambda: sql_owners.create_session(session_id, owner, model_fingerprint, ttl)
        )

    async def get_session(self, session_id: str, owner: str) -> SessionRecord:
        return await self._read(lambda: read_session(session_id, owner))

    async def list_sessions(self, owner: str, page_size: int, page_token: str = "") -> SessionPage:
        return await self._read(lambda: sql_reads.list_sessions(owner, page_size, page_token))

    async def delete_session(self, session_id: str, owner: str) -> None:
        await self._write(lambda: sql_owners.delete_session(session_id, owner))

    async def fork(
        self, session_id: str, owner: str, at_position: int | None = None
    ) -> SessionRecord:
        return await self._write(
            lambda: sql_writes.fork(session_id, owner, at_position, self._new_id)
        )

    async def sweep(self, limit: int = 100) -> int:
        return await self._write(lambda: sql_owners.sweep(limit))

    async def take_over(
        self,
        session_id: str,
        holder: str = "",
        lease_seconds: float | None = 0.0,
        *,
        force: bool = False,
    ) -> Lease:
        return await self._write(
            lambda: sql_owners.take_over(session_id, holder, lease_seconds, force)
        )

    async def renew(self, session_id: str, epoch: int, lease_seconds: float) -> Lease:
        return await self._write(lambda: sql_owners.renew(session_id, epoch, lease_seconds))

    async def release(self, session_id: str, epoch: int) -> None:
        await self._write(lambda: sql_owners.release(session_id, epoch))

    async def begin_turn(
        self, session_id: str, epoch: int, length: int, turn: NewTurn
    ) -> TurnRecord:
        return await self._write(lambda: sql_writes.begin_turn(session_id, epoch, length, turn))

    async def append(
        self, session_id: str, epoch: int, length: int, tokens: Sequence[LedgerToken]
    ) -> None:
        chunk = generated_chunk(tokens)
        await self._write(lambda: sql_writes.append(session_id, epoch, length, chunk))

    async def finish_turn(
        self, session_id: str, epoch: int, turn_index: int, finish_reason: FinishReason
    ) -> None:
        await self._write(
            lambda: sql_writes.finish_turn(session_id, epoch, turn_index, finish_reason)
        )

    async def rewind(
        self, session_id: str, epoch: int, length: int, to_position: int
    ) -> SessionRecord:
        return await self._write(lambda: sql_writes.rewind(session_id, epoch, length, to_position))

    async def take_back(
        self, session_id: str, epoch: int, length: int, turn_index: int
    ) -> SessionRecord:
        return await self._write(
            lambda: sql_writes.take_back(session_id, epoch, length, turn_index)
        )

    async def tokens(self, session_id: str, from_position: int = 0) -> list[int]:
        return await self._read(lambda: sql_reads.tokens(session_id, from_position))

    async def turns(self, session_id: str) -> list[TurnRecord]:
        return await self._read(lambda: sql_reads.turns(session_id))

    async def find_turn(self, session_id: str, request_id: str) -> TurnRecord | None:
        return await self._read(lambda: sql_reads.find_turn(session_id, request_id))

    async def turn_tokens(
        self, session_id: str, turn_index: int, from_index: int = 0
    ) -> list[LedgerToken]:
        return await self._read(lambda: sql_reads.turn_tokens(session_id, turn_index, from_index))
