"""The ledger's writes to whole sessions, as work for a SQL store: life, ownership and end."""

from __future__ import annotations

from outrider_server.core.errors import InvalidRequest, LeaseHeld

from ...core.limits import MAX_LEASE_SECONDS, MAX_TTL_SECONDS
from .ledger import Lease, SessionRecord
from .sql_rows import SECOND_US
from .sql_work import (
    Statement,
    Work,
    current_time,
    insert_session,
    lock_owned_session,
    lock_session,
    written,
)

NO_END_US = 2**61
"""How long a lease runs that somebody has to end."""


def create_session(
    session_id: str, owner: str, model_fingerprint: str, ttl_seconds: int
) -> Work[SessionRecord]:
    """`Ledger.create_session`."""
    if not 0 <= ttl_seconds <= MAX_TTL_SECONDS:
        raise InvalidRequest(
            "ttl_seconds", f"ttl_seconds must be 0 to {MAX_TTL_SECONDS}; 0 never expires"
        )
    now_us = yield from current_time()
    record = SessionRecord(
        session_id=session_id,
        owner=owner,
        model_fingerprint=model_fingerprint,
        epoch=0,
        length=0,
        turn_count=0,
        created_us=now_us,
        updated_us=now_us,
        ttl_seconds=ttl_seconds,
        expires_us=now_us + ttl_seconds * SECOND_US if ttl_seconds else None,
    )
    yield insert_session(record)
    return record


def delete_session(session_id: str, owner: str) -> Work[None]:
    """`Ledger.delete_session`."""
    yield from lock_session(session_id, owner)
    yield _delete(session_id)


def sweep(limit: int) -> Work[int]:
    """`Ledger.sweep`. Sessions that another sweep is deleting are left to it."""
    now_us = yield from current_time()
    expired = yield Statement(
        "SELECT session_id FROM sessions WHERE expires_us <= ? AND lease_until_us <= ?"
        " ORDER BY expires_us LIMIT ? FOR UPDATE SKIP LOCKED",
        (now_us, now_us, limit),
    )
    for (session_id,) in expired.rows:
        yield _delete(session_id)
    return len(expired.rows)


def put_off(by_us: int) -> Work[None]:
    """Moves the end of every session that has one."""
    yield Statement(
        "UPDATE sessions SET expires_us = expires_us + ? WHERE expires_us > 0", (by_us,)
    )


def end_leases() -> Work[None]:
    """Ends every lease: whoever had one is dead. Its session was in use until now."""
    yield Statement(
        "UPDATE sessions SET lease_until_us = 0, holder = '', expires_us = now_us() + ttl_us"
        " WHERE lease_until_us > 0"
    )


def take_over(
    session_id: str, holder: str, lease_seconds: float | None, force: bool
) -> Work[Lease]:
    """`Ledger.take_over`."""
    duration_us = NO_END_US if lease_seconds is None else _duration_us(lease_seconds)
    session, now_us = yield from lock_session(session_id)
    left_us = session.lease_until_us - now_us
    if left_us > 0 and session.holder != holder and not force:
        retry_after_ms = min(-(-left_us // 1000), int(MAX_LEASE_SECONDS * 1000))
        raise LeaseHeld(
            f"the session belongs to {session.holder or 'another service'} for"
            f" {retry_after_ms} ms more; try again then",
            retry_after_ms,
        )
    lease = Lease(session.epoch + 1, now_us + duration_us if duration_us else 0)
    yield written(
        session,
        now_us,
        epoch=lease.epoch,
        lease_until_us=lease.until_us,
        holder=holder if duration_us else "",
    )
    return lease


def renew(session_id: str, epoch: int, lease_seconds: float) -> Work[Lease]:
    """`Ledger.renew`."""
    duration_us = _duration_us(lease_seconds)
    session, now_us = yield from lock_owned_session(session_id, epoch)
    yield written(session, now_us, lease_until_us=now_us + duration_us)
    return Lease(epoch, now_us + duration_us)


def release(session_id: str, epoch: int) -> Work[None]:
    """`Ledger.release`."""
    session, now_us = yield from lock_owned_session(session_id, epoch)
    yield written(session, now_us, lease_until_us=0, holder="")


def _delete(session_id: str) -> Statement:
    return Statement("DELETE FROM sessions WHERE session_id = ?", (session_id,))


def _duration_us(lease_seconds: float) -> int:
    if not 0 <= lease_seconds <= MAX_LEASE_SECONDS:
        raise ValueError(f"a lease runs for 0 to {MAX_LEASE_SECONDS:g} seconds")
    return int(lease_seconds * SECOND_US)
