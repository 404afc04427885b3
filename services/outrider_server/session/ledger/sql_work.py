"""What a SQL store is asked to do, without saying how: statements as values, and what they find.

A piece of work is a generator. It yields statements, gets their results, and returns what the
ledger's call returns; raising changes nothing. A store runs it inside one transaction of its own.
So every store runs the same statements; PostgreSQL alone appends by a statement of its own, in one call.

Statements are PostgreSQL's, with `?` for parameters. A store has the function `now_us()`: its time
in microseconds since 1970. `FOR UPDATE` locks rows where several transactions write at once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from outrider_server.core.errors import NotFound, PositionMismatch, StaleEpoch

from . import sql_rows as rows
from .ledger import SessionRecord

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement, and a value for each `?`."""

    sql: str
    parameters: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a statement found, and how many rows it changed."""

    rows: list[tuple[Any, ...]]
    changed: int


Work = Generator[Statement, Outcome, Found]
MakeWork = Callable[[], Work[Found]]
"""Begins the work anew each time, so that a store may repeat it."""

STILL_THERE = "(expires_us IS NULL OR expires_us > now_us() OR lease_until_us > now_us())"


def read_session(session_id: str, owner: str | None = None) -> Work[SessionRecord]:
    """A session, of any owner where None is given. Raises NotFound."""
    session, _ = yield from _session(session_id, owner, "")
    return session


def lock_session(session_id: str, owner: str | None = None) -> Work[tuple[SessionRecord, int]]:
    """A session that no other transaction writes to before this one ends, and the time. Raises
    NotFound."""
    return (yield from _session(session_id, owner, " FOR UPDATE"))


def lock_owned_session(session_id: str, epoch: int) -> Work[tuple[SessionRecord, int]]:
    """As `lock_session`; raises StaleEpoch for another epoch than the session's."""
    session, now_us = yield from lock_session(session_id)
    if session.epoch != epoch:
        raise StaleEpoch(
            f"the session was taken over: it is in epoch {session.epoch}, not {epoch}; read it again",
            session.epoch,
        )
    return session, now_us


def check_length(session: SessionRecord, length: int) -> None:
    """Raises PositionMismatch when the session does not have `length` tokens."""
    if session.length != length:
        raise PositionMismatch(
            f"the session has {session.length} tokens, not {length}; read it again", session.length
        )


def written(session: SessionRecord, now_us: int, **changes: int | str) -> Statement:
    """Changes columns of a session, and says that it was written to."""
    columns = "".join(f"{name} = ?, " for name in changes)
    return Statement(
        f"UPDATE sessions SET {columns}updated_us = ?, expires_us = ? + ttl_us"
        " WHERE session_id = ?",
        (*changes.values(), now_us, now_us, session.session_id),
    )


def insert_session(record: SessionRecord) -> Statement:
    """A row of `sessions`."""
    marks = ", ".join("?" * len(rows.session_row(record)))
    return Statement(
        f"INSERT INTO sessions ({rows.SESSION_COLUMNS}) VALUES ({marks})", rows.session_row(record)
    )


def insert_chunk(
    session_id: str, turn_index: int, start_position: int, chunk: rows.Chunk
) -> Statement:
    """A row of `chunks`."""
    return Statement(
        f"INSERT INTO chunks ({rows.CHUNK_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
        (session_id, turn_index, start_position, *chunk),
    )


def current_time() -> Work[int]:
    """The store's time, in microseconds since 1970."""
    found = yield Statement("SELECT now_us()")
    now_us: int = found.rows[0][0]
    return now_us


def _session(session_id: str, owner: str | None, lock: str) -> Work[tuple[SessionRecord, int]]:
    row: tuple[Any, ...] | None = None
    if "\0" not in session_id:  # which no id has, and not every store takes
        found = yield Statement(
            f"SELECT {rows.SESSION_READ} FROM sessions"
            f" WHERE session_id = ? AND {STILL_THERE}{lock}",
            (session_id,),
        )
        row = found.rows[0] if found.rows else None
    if row is None or owner not in (None, row[1]):
        raise NotFound("there is no such session")
    return rows.session_record(row), row[-1]
