"""The ledger's reads, as work for a SQL store."""

from __future__ import annotations

from outrider_server.core.errors import InvalidRequest

from . import sql_rows as rows
from .ledger import MAX_PAGE_SIZE, LedgerToken, SessionPage, TurnRecord
from .sql_work import STILL_THERE, Statement, Work, read_session

NO_END = 2**63 - 1
MAX_DIGITS = len(str(NO_END))


def list_sessions(owner: str, page_size: int, page_token: str) -> Work[SessionPage]:
    """`Ledger.list_sessions`."""
    if not 1 <= page_size <= MAX_PAGE_SIZE:
        raise InvalidRequest("page_size", f"page_size must be 1 to {MAX_PAGE_SIZE}")
    found = yield Statement(
        f"SELECT {rows.SESSION_READ} FROM sessions"
        f" WHERE owner = ? AND (created_us, session_id) < (?, ?) AND {STILL_THERE}"
        " ORDER BY created_us DESC, session_id DESC LIMIT ?",
        (owner, *_page_start(page_token), page_size + 1),
    )
    sessions = tuple(map(rows.session_record, found.rows))
    page = sessions[:page_size]
    is_last = page == sessions
    return SessionPage(page, "" if is_last else f"{page[-1].created_us}-{page[-1].session_id}")


def tokens(session_id: str, from_position: int) -> Work[list[int]]:
    """`Ledger.tokens`."""
    session = yield from read_session(session_id)
    first = min(max(0, from_position), session.length)
    found = yield Statement(
        "SELECT start_position, tokens FROM chunks WHERE session_id = ?"
        " AND start_position + length(tokens) / 4 > ? ORDER BY turn_index, start_position",
        (session_id, first),
    )
    packed = bytearray()
    for (
        start,
        chunk,
    ) in found.rows:  # a chunk ends what an earlier turn has at its place and after it
        skipped = 4 * max(0, first - start)
        del packed[4 * max(0, start - first) :]
        packed += chunk[skipped:]
    return list(rows.unpack(bytes(packed[: 4 * (session.length - first)])))


def turns(session_id: str) -> Work[list[TurnRecord]]:
    """`Ledger.turns`."""
    yield from read_session(session_id)
    found = yield Statement(
        f"SELECT {rows.TURN_COLUMNS} FROM turns WHERE session_id = ? ORDER BY turn_index",
        (session_id,),
    )
    return [rows.turn_record(row) for row in found.rows]


def find_turn(session_id: str, request_id: str) -> Work[TurnRecord | None]:
    """`Ledger.find_turn`."""
    yield from read_session(session_id)
    if "\0" in request_id:
        return None
    found = yield Statement(
        f"SELECT {rows.TURN_COLUMNS} FROM turns WHERE session_id = ? AND request_id = ?",
        (session_id, request_id),
    )
    return rows.turn_record(found.rows[0]) if found.rows else None


def turn_tokens(session_id: str, turn_index: int, from_index: int) -> Work[list[LedgerToken]]:
    """`Ledger.turn_tokens`."""
    session = yield from read_session(session_id)
    if not 0 <= turn_index < session.turn_count:
        return []
    found = yield Statement(
        "SELECT tokens, sources, logprobs FROM chunks"
        " WHERE session_id = ? AND turn_index = ? AND sources IS NOT NULL ORDER BY start_position",
        (session_id, turn_index),
    )
    generated = [token for row in found.rows for token in rows.chunk_tokens(row)]
    return generated[max(0, from_index) :]


def _page_start(page_token: str) -> tuple[int, str]:
    """Creation time and id that the page's sessions come before."""
    if not page_token:
        return NO_END, ""
    created_us, dash, session_id = page_token.partition("-")
    is_time = created_us.isdecimal() and len(created_us) <= MAX_DIGITS and int(created_us) < NO_END
    if not (dash and is_time) or "\0" in session_id:
        raise InvalidRequest("page_token", "page_token is not one that a page of sessions gave")
    return int(created_us), session_id
