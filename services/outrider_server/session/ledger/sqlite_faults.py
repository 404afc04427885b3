"""What SQLite's errors mean for a ledger: which pass, which stay, and what to do about each.

One table. No sentence holds a path or the text of SQLite: it may be sent to a client.
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from outrider_server.core.errors import (
    InternalError,
    LedgerUnavailable,
    LedgerUnusable,
    OutriderError,
)

PASSING = {
    sqlite3.SQLITE_BUSY: "another program holds the ledger's file locked; try again when it is done",
    sqlite3.SQLITE_LOCKED: "another program holds the ledger's file locked; try again when it is done",
    sqlite3.SQLITE_PROTOCOL: "another program holds the ledger's file locked; try again when it is done",
    sqlite3.SQLITE_FULL: "the disk of the ledger's file is full; make room on it, then try again",
    sqlite3.SQLITE_IOERR: "the disk of the ledger's file is full or fails; see to it, then try again",
    sqlite3.SQLITE_CANTOPEN: "the ledger's file cannot be opened; see that its folder is there and that"
    " the service may open files in it, then try again",
    sqlite3.SQLITE_NOMEM: "the machine of the ledger has no memory left; make room, then try again",
}
STAYING = {
    sqlite3.SQLITE_READONLY: "the ledger's file is read-only, or was moved; let the service write the"
    " file and its folder, then start it again",
    sqlite3.SQLITE_PERM: "the ledger's file is read-only, or was moved; let the service write the"
    " file and its folder, then start it again",
    sqlite3.SQLITE_NOTADB: "the ledger's file is no SQLite database; name another file, or put a backup"
    " in its place",
    sqlite3.SQLITE_CORRUPT: "the ledger's file is damaged; stop the service and put a backup in its place",
    # What a statement of ours meets only where tables or columns are gone.
    sqlite3.SQLITE_ERROR: "the ledger's file lacks tables of this version; stop the service and put a"
    " backup in its place",
}


_ERRNOS = {
    errno.ENOSPC: sqlite3.SQLITE_FULL,
    errno.EDQUOT: sqlite3.SQLITE_FULL,
    errno.EACCES: sqlite3.SQLITE_READONLY,
    errno.EPERM: sqlite3.SQLITE_READONLY,
    errno.EROFS: sqlite3.SQLITE_READONLY,
}
"""What the system says of a file beside the ledger's, as SQLite would say it."""


@contextmanager
def store_errors() -> Iterator[None]:
    """Raises LedgerUnavailable for a fault that may pass, and LedgerUnusable for one that stays until
    somebody mends it."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise fault(error) from error


def fault(error: sqlite3.Error | OSError) -> OutriderError:
    """The domain error behind an error of SQLite or of the system."""
    if isinstance(error, OSError):
        code = _ERRNOS.get(error.errno or 0, sqlite3.SQLITE_CANTOPEN)
    else:
        # The low byte is the primary code; the rest says more. The module's own errors have none.
        code = getattr(error, "sqlite_errorcode", -1) & 0xFF
    if code in PASSING:
        return LedgerUnavailable(PASSING[code])
    if code in STAYING:
        return LedgerUnusable(STAYING[code])
    return InternalError("the ledger's file refused a statement")
