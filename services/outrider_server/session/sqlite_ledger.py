"""The ledger in one SQLite file: for one host, with no service beside it.

Owns the statements. Must not know what the tokens mean, nor on which thread it runs: every call is
one transaction, handed to `sqlite_file.py`; how records are written down is said in
`sqlite_rows.py`. Several processes may open the same file.
"""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from outrider_server.speculation.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    PositionMismatch,
    StaleEpoch,
)
from outrider_server.speculation.types import FinishReason

from . import sqlite_rows as rows
from .ledger import MAX_PAGE_SIZE, LedgerToken, NewTurn, SessionPage, SessionRecord, TurnRecord
from .sqlite_file import SqliteFile

NO_END = 2**63 - 1


class SqliteLedger:
    """A `Ledger` in the file at `path`, which is created where it is not there."""

    def __init__(
        self,
        path: Path,
        *,
        busy_timeout_ms: int = 5000,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        new_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """Opens the file, waiting for the disk. Raises Unavailable when that is not possible now,
        and InternalError, leaving the file as it is, when it holds anything but a ledger of this
        version."""
        self._now_us = now_us
        self._new_id = new_id
        self._file = SqliteFile(path, rows.SCHEMA, rows.SCHEMA_VERSION, busy_timeout_ms)

    async def aclose(self) -> None:
        """Waits for the writes under way and closes the file."""
        await self._file.aclose()

    async def create_session(self, owner: str, model_fingerprint: str) -> SessionRecord:
        now = self._now_us()
        record = SessionRecord(
            session_id=self._new_id(),
            owner=owner,
            model_fingerprint=model_fingerprint,
            epoch=0,
            length=0,
            turn_count=0,
            created_us=now,
            updated_us=now,
        )

        def work(connection: sqlite3.Connection) -> SessionRecord:
            connection.execute(
                f"INSERT INTO sessions ({rows.SESSION_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                rows.session_row(record),
            )
            return record

        return await self._file.write(work)

    async def get_session(self, session_id: str, owner: str) -> SessionRecord:
        return await self._file.read(lambda connection: _session(connection, session_id, owner))

    async def list_sessions(self, owner: str, page_size: int, page_token: str = "") -> SessionPage:
        if not 1 <= page_size <= MAX_PAGE_SIZE:
            raise InvalidRequest("page_size", f"page_size must be 1 to {MAX_PAGE_SIZE}")
        before = _page_start(page_token)

        def work(connection: sqlite3.Connection) -> SessionPage:
            found = connection.execute(
                f"SELECT {rows.SESSION_COLUMNS} FROM sessions"
                " WHERE owner = ? AND (created_us, session_id) < (?, ?)"
                " ORDER BY created_us DESC, session_id DESC LIMIT ?",
                (owner, *before, page_size + 1),
            )
            sessions = tuple(map(rows.session_record, found))
            page = sessions[:page_size]
            is_last = page == sessions
            token = "" if is_last else f"{page[-1].created_us}-{page[-1].session_id}"
            return SessionPage(page, token)

        return await self._file.read(work)

    async def delete_session(self, session_id: str, owner: str) -> None:
        def work(connection: sqlite3.Connection) -> None:
            _session(connection, session_id, owner)
            connection.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))

        await self._file.write(work)

    async def take_over(self, session_id: str) -> int:
        def work(connection: sqlite3.Connection) -> int:
            epoch = _session(connection, session_id).epoch + 1
            connection.execute(
                "UPDATE sessions SET epoch = ?, updated_us = ? WHERE session_id = ?",
                (epoch, self._now_us(), session_id),
            )
            return epoch

        return await self._file.write(work)

    async def begin_turn(
        self, session_id: str, epoch: int, length: int, turn: NewTurn
    ) -> TurnRecord:
        def work(connection: sqlite3.Connection) -> TurnRecord:
            session = _owned_session(connection, session_id, epoch)
            _check_unused(connection, session_id, turn.request_id)
            _check_length(session, length)
            record = TurnRecord(
                session_id=session_id,
                turn_index=session.turn_count,
                request_id=turn.request_id,
                start_position=length,
                prompt_tokens=len(turn.prompt_tokens),
                parameters=turn.parameters,
            )
            connection.execute(
                f"INSERT INTO turns ({rows.TURN_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows.turn_row(record),
            )
            connection.execute(
                "UPDATE sessions SET turn_count = turn_count + 1 WHERE session_id = ?",
                (session_id,),
            )
            self._add(connection, session, (rows.pack(turn.prompt_tokens), None, None))
            return record

        return await self._file.write(work)

    async def append(
        self, session_id: str, epoch: int, length: int, tokens: Sequence[LedgerToken]
    ) -> None:
        chunk = rows.chunk_row(tokens)

        def work(connection: sqlite3.Connection) -> None:
            session = _owned_session(connection, session_id, epoch)
            _check_length(session, length)
            if not session.turn_count:
                raise ValueError("tokens are generated in a turn, and there is none")
            self._add(connection, session, chunk)

        await self._file.write(work)

    async def finish_turn(
        self, session_id: str, epoch: int, turn_index: int, finish_reason: FinishReason
    ) -> None:
        def work(connection: sqlite3.Connection) -> None:
            _owned_session(connection, session_id, epoch)
            changed = connection.execute(
                "UPDATE turns SET finish_reason = ? WHERE session_id = ? AND turn_index = ?",
                (finish_reason.value, session_id, turn_index),
            )
            if not changed.rowcount:
                raise ValueError(f"there is no turn {turn_index}")

        await self._file.write(work)

    async def tokens(self, session_id: str, from_position: int = 0) -> list[int]:
        def work(connection: sqlite3.Connection) -> list[int]:
            _session(connection, session_id)
            found = connection.execute(
                "SELECT start_position, tokens FROM chunks WHERE session_id = ?"
                " AND start_position + length(tokens) / 4 > ? ORDER BY start_position",
                (session_id, from_position),
            ).fetchall()
            tokens = rows.unpack(b"".join(packed for _, packed in found))
            start = found[0][0] if found else 0
            return list(tokens[max(0, from_position - start) :])

        return await self._file.read(work)

    async def turns(self, session_id: str) -> list[TurnRecord]:
        def work(connection: sqlite3.Connection) -> list[TurnRecord]:
            _session(connection, session_id)
            found = connection.execute(
                f"SELECT {rows.TURN_COLUMNS} FROM turns WHERE session_id = ? ORDER BY turn_index",
                (session_id,),
            )
            return [rows.turn_record(row) for row in found]

        return await self._file.read(work)

    async def turn_tokens(
        self, session_id: str, turn_index: int, from_index: int = 0
    ) -> list[LedgerToken]:
        def work(connection: sqlite3.Connection) -> list[LedgerToken]:
            _session(connection, session_id)
            found = connection.execute(
                "SELECT tokens, sources, logprobs FROM chunks"
                " WHERE session_id = ? AND start_position >= ? AND start_position < ?"
                " ORDER BY start_position",
                (session_id, *_generated_span(connection, session_id, turn_index)),
            )
            return [token for row in found for token in rows.chunk_tokens(row)][
                max(0, from_index) :
            ]

        return await self._file.read(work)

    def _add(
        self,
        connection: sqlite3.Connection,
        session: SessionRecord,
        chunk: tuple[bytes, bytes | None, str | None],
    ) -> None:
        count = len(chunk[0]) // 4
        if not count:
            return
        connection.execute(
            "INSERT INTO chunks (session_id, start_position, tokens, sources, logprobs)"
            " VALUES (?, ?, ?, ?, ?)",
            (session.session_id, session.length, *chunk),
        )
        connection.execute(
            "UPDATE sessions SET length = ?, updated_us = ? WHERE session_id = ?",
            (session.length + count, self._now_us(), session.session_id),
        )


def _session(
    connection: sqlite3.Connection, session_id: str, owner: str | None = None
) -> SessionRecord:
    row = connection.execute(
        f"SELECT {rows.SESSION_COLUMNS} FROM sessions WHERE session_id = ?", (session_id,)
    ).fetchone()
    if row is None or owner not in (None, row[1]):
        raise NotFound("there is no such session")
    return rows.session_record(row)


def _owned_session(connection: sqlite3.Connection, session_id: str, epoch: int) -> SessionRecord:
    session = _session(connection, session_id)
    if session.epoch != epoch:
        raise StaleEpoch(
            f"the session is in epoch {session.epoch}, not {epoch}; read it again", session.epoch
        )
    return session


def _check_length(session: SessionRecord, length: int) -> None:
    if session.length != length:
        raise PositionMismatch(
            f"the session has {session.length} tokens, not {length}; read it again", session.length
        )


def _check_unused(connection: sqlite3.Connection, session_id: str, request_id: str) -> None:
    used = connection.execute(
        "SELECT 1 FROM turns WHERE session_id = ? AND request_id = ?", (session_id, request_id)
    )
    if used.fetchone():
        raise AlreadyExists("the session has used this request_id; choose another")


def _generated_span(
    connection: sqlite3.Connection, session_id: str, turn_index: int
) -> tuple[int, int]:
    """Positions from a turn's first generated token up to the next turn; empty if unknown."""
    query = (
        "SELECT start_position, prompt_tokens FROM turns WHERE session_id = ? AND turn_index = ?"
    )
    turn = connection.execute(query, (session_id, turn_index)).fetchone()
    following = connection.execute(query, (session_id, turn_index + 1)).fetchone()
    if turn is None:
        return 0, 0
    return sum(turn), following[0] if following else NO_END


def _page_start(page_token: str) -> tuple[int, str]:
    """Creation time and id that the page's sessions come before."""
    if not page_token:
        return NO_END, ""
    created_us, dash, session_id = page_token.partition("-")
    if not (dash and created_us.isdecimal() and int(created_us) < NO_END):
        raise InvalidRequest("page_token", "page_token is not one that a page of sessions gave")
    return int(created_us), session_id
