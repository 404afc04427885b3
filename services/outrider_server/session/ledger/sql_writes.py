"""The ledger's writes to turns and tokens, as work for a SQL store."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from outrider_server.core.errors import AlreadyExists, InvalidRequest
from outrider_server.core.types import FinishReason

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
    start = length if turn.start_position is None else turn.start_position
    if not 0 <= start <= length:
        raise ValueError(f"a prompt cannot stand at {start} of {length} tokens")
    record = TurnRecord(
        session_id=session_id,
        turn_index=session.turn_count,
        request_id=turn.request_id,
        start_position=start,
        prompt_tokens=len(turn.prompt_tokens),
        rewound_tokens=length - start,
        parameters=turn.parameters,
        chat=turn.chat,
    )
    if turn.last_reply is not None:
        yield _keep_reply(session, turn.last_reply)
    if record.rewound_tokens:
        yield _end_for_good(session)
    yield _insert_turn(record)
    if turn.prompt_tokens:
        chunk = (rows.pack(turn.prompt_tokens), None, None)
        yield insert_chunk(session_id, record.turn_index, start, chunk)
    yield written(
        session,
        now_us,
        turn_count=session.turn_count + 1,
        length=start + len(turn.prompt_tokens),
        epoch=epoch + bool(record.rewound_tokens),
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
        yield insert_chunk(session_id, session.turn_count - 1, length, chunk)
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
    kept_turns, end = yield from _kept(session, to_position)
    if kept_turns < session.turn_count:
        yield from _drop_turns(session_id, kept_turns)
    if kept_turns and to_position < end:
        yield from _cut_turn(session_id, kept_turns - 1, to_position)
    yield written(session, now_us, length=to_position, turn_count=kept_turns, epoch=epoch + 1)
    return (yield from read_session(session_id))


def take_back(session_id: str, epoch: int, length: int, turn_index: int) -> Work[SessionRecord]:
    """`Ledger.take_back`. The turns before have all the tokens that the turn found."""
    session, now_us = yield from lock_owned_session(session_id, epoch)
    check_length(session, length)
    found = yield Statement(
        "SELECT start_position + rewound_tokens FROM turns WHERE session_id = ? AND turn_index = ?",
        (session_id, turn_index),
    )
    if not found.rows:
        raise ValueError(f"there is no turn {turn_index}")
    yield from _drop_turns(session_id, turn_index)
    yield written(session, now_us, length=found.rows[0][0], turn_count=turn_index, epoch=epoch + 1)
    return (yield from read_session(session_id))


def fork(
    session_id: str, owner: str, at_position: int | None, new_id: Callable[[], str]
) -> Work[SessionRecord]:
    """`Ledger.fork`. `new_id` names the copy and its turns."""
    source, now_us = yield from lock_session(session_id, owner)
    position = source.length if at_position is None else at_position
    _check_position(source, position, "fork")
    kept_turns, end = yield from _kept(source, position)
    found = yield Statement(
        f"SELECT {rows.TURN_COLUMNS} FROM turns WHERE session_id = ? AND turn_index < ?"
        " ORDER BY turn_index",
        (session_id, kept_turns),
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
        " SELECT ?, turn_index, start_position, tokens, sources, logprobs FROM chunks"
        " WHERE session_id = ? AND turn_index < ?",
        (copy.session_id, session_id, kept_turns),
    )
    for turn in turns:
        yield _insert_turn(replace(turn, session_id=copy.session_id, request_id=new_id()))
    if turns and (position < end or turns[-1].finish_reason is None):
        yield from _cut_turn(copy.session_id, kept_turns - 1, position)
    return copy


def _kept(session: SessionRecord, position: int) -> Work[tuple[int, int]]:
    """How many turns a cut at `position` keeps, and up to where the last of them is in the session."""
    found = yield Statement(
        "SELECT coalesce(max(turn_index) + 1, 0) FROM turns"
        " WHERE session_id = ? AND start_position < ?",
        (session.session_id, position),
    )
    kept_turns: int = found.rows[0][0]
    found = yield Statement(
        "SELECT min(start_position) FROM turns WHERE session_id = ? AND turn_index >= ?",
        (session.session_id, kept_turns),
    )
    end = found.rows[0][0]
    return kept_turns, session.length if end is None else end


def _keep_reply(session: SessionRecord, reply: str) -> Statement:
    return Statement(
        "UPDATE turns SET reply = ? WHERE session_id = ? AND turn_index = ?",
        (reply, session.session_id, session.turn_count - 1),
    )


def _end_for_good(session: SessionRecord) -> Statement:
    """Nobody goes on with the last turn, whatever is taken back after it."""
    return Statement(
        "UPDATE turns SET finish_reason = ?, is_cut = 1 WHERE session_id = ? AND turn_index = ?"
        " AND (finish_reason IS NULL OR finish_reason IN (?, ?))",
        (
            FinishReason.CANCELLED.value,
            session.session_id,
            session.turn_count - 1,
            FinishReason.CANCELLED.value,
            FinishReason.FAILED.value,
        ),
    )


def _drop_turns(session_id: str, from_index: int) -> Work[None]:
    where = "WHERE session_id = ? AND turn_index >= ?"
    yield Statement(
        "INSERT INTO dropped_requests (session_id, request_id)"
        f" SELECT session_id, request_id FROM turns {where}",
        (session_id, from_index),
    )
    yield Statement(f"DELETE FROM turns {where}", (session_id, from_index))
    yield Statement(f"DELETE FROM chunks {where}", (session_id, from_index))


def _cut_turn(session_id: str, turn_index: int, position: int) -> Work[None]:
    """Leaves of a turn what stands before `position`."""
    of_turn = "WHERE session_id = ? AND turn_index = ?"
    yield Statement(
        "UPDATE turns SET finish_reason = ?, is_cut = 1, reply = NULL, chat ="
        " CASE WHEN start_position + prompt_tokens > ? AND chat IS NOT NULL THEN '' ELSE chat END,"
        " prompt_tokens = CASE WHEN start_position + prompt_tokens > ? THEN ? - start_position"
        f" ELSE prompt_tokens END {of_turn}",
        (FinishReason.CANCELLED.value, position, position, position, session_id, turn_index),
    )
    found = yield Statement(
        f"SELECT start_position, tokens, sources, logprobs FROM chunks {of_turn}"
        " AND start_position < ? AND start_position + length(tokens) / 4 > ?",
        (session_id, turn_index, position, position),
    )
    yield Statement(
        f"DELETE FROM chunks {of_turn} AND start_position + length(tokens) / 4 > ?",
        (session_id, turn_index, position),
    )
    for start, *columns in found.rows:  # the one that the cut goes through, where there is one
        chunk: rows.Chunk = (columns[0], columns[1], columns[2])
        yield insert_chunk(session_id, turn_index, start, rows.cut_chunk(chunk, position - start))


def _insert_turn(record: TurnRecord) -> Statement:
    row = rows.turn_row(record)
    marks = ", ".join("?" * len(row))
    return Statement(f"INSERT INTO turns ({rows.TURN_COLUMNS}) VALUES ({marks})", row)


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
