"""The ledger's writes to turns and tokens, as work for a SQL store."""

from __future__ import annotations

from collections.abc import Callable

from outrider_server.speculation.errors import AlreadyExists, InvalidRequest
from outrider_server.speculation.types import FinishReason

from . import sql_rows as rows
from .ledger import NewTurn, SessionRecord, TurnRecord
from .sql_work import (
    Statement,
    Work,
    check_length,
    insert_chunk,
    insert_session,
    lock_owned_session,
    lock_session,
    read_session,
    written,
)


def begin_turn(session_id: str, epoch: int, length: int, turn: NewTurn) -> Work[TurnRecord]:
    """`Ledger.begin_turn`."""
    if "\0" in turn.request_id:
        raise InvalidRequest("request_id", "request_id must not hold the character NUL")
    session, now_us = yield from lock_owned_session(session_id, epoch)
    yield from _check_unused(session_id, turn.request_id)
    check_length(session, length)
    record = TurnRecord(
        session_id=session_id,
        turn_index=session.turn_count,
        request_id=turn.request_id,
        start_position=length,
        prompt_tokens=len(turn.prompt_tokens),
        parameters=turn.parameters,
    )
    yield _insert_turn(record)
    if turn.prompt_tokens:
        yield insert_chunk(session_id, length, (rows.pack(turn.prompt_tokens), None, None))
    yield written(
        session,
        now_us,
        turn_count=session.turn_count + 1,
        length=length + len(turn.prompt_tokens),
    )
    return record


def append(session_id: str, epoch: int, length: int, chunk: rows.Chunk) -> Work[None]:
    """`Ledger.append`."""
    session, now_us = yield from lock_owned_session(session_id, epoch)
    check_length(session, length)
    if not session.turn_count:
        raise ValueError("tokens are generated in a turn, and there is none")
    count = len(chunk[0]) // 4
    if count:
        yield insert_chunk(session_id, length, chunk)
        yield written(session, now_us, length=length + count)


def finish_turn(
    session_id: str, epoch: int, turn_index: int, finish_reason: FinishReason
) -> Work[None]:
    """`Ledger.finish_turn`."""
    session, now_us = yield from lock_owned_session(session_id, epoch)
    if not 0 <= turn_index < session.turn_count:
        raise ValueError(f"there is no turn {turn_index}")
    yield Statement(
        "UPDATE turns SET finish_reason = ? WHERE session_id = ? AND turn_index = ?",
        (finish_reason.value, session_id, turn_index),
    )
    yield written(session, now_us, lease_until_us=0, holder="")


def rewind(session_id: str, epoch: int, length: int, to_position: int) -> Work[SessionRecord]:
    """`Ledger.rewind`."""
    session, now_us = yield from lock_owned_session(session_id, epoch)
    check_length(session, length)
    _check_position(session, to_position, "rewind")
    found = yield Statement(
        "SELECT count(*), min(start_position) FROM turns"
        " WHERE session_id = ? AND start_position >= ?",
        (session_id, to_position),
    )
    dropped_turns, dropped_from = found.rows[0]
    kept_turns = session.turn_count - dropped_turns
    if dropped_turns:
        yield from _drop_turns(session_id, to_position)
    if kept_turns and to_position < (session.length if dropped_from is None else dropped_from):
        yield _cut_turn(session_id, kept_turns - 1, to_position)
    straddling = yield from _straddling_chunk(session_id, to_position)
    yield Statement(
        "DELETE FROM chunks WHERE session_id = ? AND start_position + length(tokens) / 4 > ?",
        (session_id, to_position),
    )
    if straddling is not None:
        yield insert_chunk(session_id, *straddling)
    yield written(session, now_us, length=to_position, turn_count=kept_turns, epoch=epoch + 1)
    return (yield from read_session(session_id))


def fork(
    session_id: str, owner: str, at_position: int | None, new_id: Callable[[], str]
) -> Work[SessionRecord]:
    """`Ledger.fork`. `new_id` names the copy and its turns."""
    source, now_us = yield from lock_session(session_id, owner)
    position = source.length if at_position is None else at_position
    _check_position(source, position, "fork")
    found = yield Statement(
        f"SELECT {rows.TURN_COLUMNS} FROM turns WHERE session_id = ? AND start_position < ?"
        " ORDER BY turn_index",
        (session_id, position),
    )
    turns = [rows.turn_record(row) for row in found.rows]
    copy = SessionRecord(
        session_id=new_id(),
        owner=owner,
        model_fingerprint=source.model_fingerprint,
        epoch=0,
        length=position,
        turn_count=len(turns),
        created_us=now_us,
        updated_us=now_us,
        ttl_seconds=source.ttl_seconds,
        expires_us=now_us + source.ttl_seconds * rows.SECOND_US if source.ttl_seconds else None,
    )
    yield insert_session(copy)
    yield Statement(
        f"INSERT INTO chunks ({rows.CHUNK_COLUMNS})"
        " SELECT ?, start_position, tokens, sources, logprobs FROM chunks"
        " WHERE session_id = ? AND start_position + length(tokens) / 4 <= ?",
        (copy.session_id, session_id, position),
    )
    straddling = yield from _straddling_chunk(session_id, position)
    if straddling is not None:
        yield insert_chunk(copy.session_id, *straddling)
    yield from _copy_turns(turns, copy.session_id, new_id)
    if turns:
        following = yield Statement(
            "SELECT start_position FROM turns WHERE session_id = ? AND turn_index = ?",
            (session_id, len(turns)),
        )
        end = following.rows[0][0] if following.rows else source.length
        if position < end or turns[-1].finish_reason is None:
            yield _cut_turn(copy.session_id, len(turns) - 1, position)
    return copy


def _copy_turns(turns: list[TurnRecord], session_id: str, new_id: Callable[[], str]) -> Work[None]:
    for turn in turns:
        yield _insert_turn(
            TurnRecord(
                session_id=session_id,
                turn_index=turn.turn_index,
                request_id=new_id(),
                start_position=turn.start_position,
                prompt_tokens=turn.prompt_tokens,
                parameters=turn.parameters,
                finish_reason=turn.finish_reason,
                is_cut=turn.is_cut,
            )
        )


def _drop_turns(session_id: str, from_position: int) -> Work[None]:
    where = "WHERE session_id = ? AND start_position >= ?"
    yield Statement(
        "INSERT INTO dropped_requests (session_id, request_id)"
        f" SELECT session_id, request_id FROM turns {where}",
        (session_id, from_position),
    )
    yield Statement(f"DELETE FROM turns {where}", (session_id, from_position))


def _cut_turn(session_id: str, turn_index: int, position: int) -> Statement:
    return Statement(
        "UPDATE turns SET finish_reason = ?, is_cut = 1, prompt_tokens ="
        " CASE WHEN start_position + prompt_tokens > ? THEN ? - start_position"
        " ELSE prompt_tokens END WHERE session_id = ? AND turn_index = ?",
        (FinishReason.CANCELLED.value, position, position, session_id, turn_index),
    )


def _straddling_chunk(session_id: str, position: int) -> Work[tuple[int, rows.Chunk] | None]:
    """Start and remainder of the chunk that a cut at `position` goes through; None without one."""
    found = yield Statement(
        "SELECT start_position, tokens, sources, logprobs FROM chunks WHERE session_id = ?"
        " AND start_position < ? AND start_position + length(tokens) / 4 > ?",
        (session_id, position, position),
    )
    if not found.rows:
        return None
    start, *columns = found.rows[0]
    chunk: rows.Chunk = (columns[0], columns[1], columns[2])
    return start, rows.cut_chunk(chunk, position - start)


def _insert_turn(record: TurnRecord) -> Statement:
    return Statement(
        f"INSERT INTO turns ({rows.TURN_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        rows.turn_row(record),
    )


def _check_unused(session_id: str, request_id: str) -> Work[None]:
    where = "WHERE session_id = ? AND request_id = ?"
    used = yield Statement(f"SELECT 1 FROM turns {where}", (session_id, request_id))
    if used.rows:
        raise AlreadyExists("the session has used this request_id; choose another")
    dropped = yield Statement(f"SELECT 1 FROM dropped_requests {where}", (session_id, request_id))
    if dropped.rows:
        raise AlreadyExists(
            "the session used this request_id in a turn that a rewind dropped; choose another"
        )


def _check_position(session: SessionRecord, position: int, what: str) -> None:
    if not 0 <= position <= session.length:
        raise InvalidRequest(
            "position",
            f"the session has {session.length} tokens; {what} to a position of 0 to"
            f" {session.length}, not {position}",
        )
