"""What PostgreSQL's errors mean for a ledger: which pass, which stay, what to do, and what the log says.

One table. No sentence holds the text of PostgreSQL: it may be sent to a client. The log has that text, each
cause once in a while, and never the password.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg_pool import PoolTimeout, TooManyRequests

from outrider_server.core.errors import (
    InternalError,
    LedgerUnavailable,
    LedgerUnusable,
    OutriderError,
)

UNREACHABLE = (
    "the ledger's database cannot be reached, or does not answer; try again when it is back"
)
STANDBY = (
    "the ledger's database is a standby, which takes no writes; try again when it is the primary"
)
REFUSING = (
    "the ledger's database answers and lets this service in no more; the service's log says why; try again"
    " when that is mended"
)
STANDBY_STATES = ("25006", "0A000")
"""A write in a transaction that may not, and asking for one that may."""
PASSING = {
    "53100": "the disk of the ledger's database is full; make room on it, then try again",
    "53200": "the ledger's database has no memory left; try again later, or let it have more",
    "53300": "the ledger's database has no connection left; try again, or let it have more",
    "40001": "the ledger's database was at work on the same rows; try again",
    "40P01": "the ledger's database was at work on the same rows; try again",
    "55P03": "the ledger's database is locked by another program; try again when it is done",
    "57014": "the ledger's database took too long; try again later",
}
GONE = ("42P01", "42703", "42883")
"""A table, a column, a function."""
STAYING = {
    "42P01": "a table of the ledger's database is gone; stop the service and restore a backup",
    "42703": "a column of the ledger's database is gone; stop the service and restore a backup",
    "42883": "a function of the ledger's database is gone; stop the service and restore a backup",
    "42501": "the ledger's database does not allow its user to read and write; grant it, then try again",
}
"""Sentences by SQLSTATE: of faults that may pass, and of those that stay until somebody mends them."""
KNOWN = (*PASSING, *STANDBY_STATES)
"""States whose sentence says what to do."""
TOLD_SECONDS = 60.0
"""A cause that goes on is told again after this long."""

log = logging.getLogger("outrider.session")


def is_standby(error: psycopg.Error) -> bool:
    """True where another server may be the one that takes writes."""
    return error.sqlstate in STANDBY_STATES


def fault(error: psycopg.Error) -> OutriderError:
    """The domain error behind an error of PostgreSQL or of its driver."""
    state = error.sqlstate or ""
    if state in STAYING:
        return LedgerUnusable(STAYING[state])
    if state in STANDBY_STATES:  # which a fail-over leaves behind until the address follows it
        return LedgerUnavailable(STANDBY, is_away=True)
    if state in PASSING:
        return LedgerUnavailable(PASSING[state])
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return LedgerUnavailable(UNREACHABLE, is_away=True)
    return InternalError("the ledger's database refused a statement")


def cause(error: psycopg.Error, password: str) -> str:
    """The first line of what PostgreSQL said, without the password."""
    text = error.diag.message_primary or str(error).strip() or type(error).__name__
    line = text.splitlines()[0]
    return line.replace(password, "***") if password else line


def check_committed(status: str | None) -> None:
    """Raises LedgerUnavailable unless a transaction's end says that it was committed: the end of one that had
    failed is told as any other, by another word."""
    if status != "COMMIT":
        raise LedgerUnavailable(UNREACHABLE, is_away=True)


class Faults:
    """Translates errors of one database, and logs their causes."""

    def __init__(self, password: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._password = password
        self._clock = clock
        self._told: dict[str, float] = {}
        self._lets_in = ""
        """Why there is no connection, as far as a client may know; empty where there was one last."""

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raises LedgerUnavailable for what may pass, LedgerUnusable for what stays until somebody mends
        it, and InternalError for anything else."""
        try:
            yield
        except (PoolTimeout, TooManyRequests) as error:
            raise LedgerUnavailable(self._lets_in or UNREACHABLE, is_away=True) from error
        except psycopg.Error as error:
            self.tell(error)
            raise fault(error) from error

    def connected(self) -> None:
        """The database has let the service in."""
        self._lets_in = ""

    def not_connected(self, error: psycopg.Error) -> None:
        """It has not; its words have no SQLSTATE then."""
        self.tell(error)
        said = str(error)
        is_standby = "session is read-only" in said or "hot standby" in said
        self._lets_in = STANDBY if is_standby else REFUSING if "FATAL:" in said else ""

    def tell(self, error: psycopg.Error) -> None:
        """Logs the cause, unless that was done a moment ago."""
        said, now = cause(error, self._password), self._clock()
        if now - self._told.get(said, -TOLD_SECONDS) >= TOLD_SECONDS:
            self._told[said] = now
            state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
            log.warning("the ledger's database: %s%s", said, state)
