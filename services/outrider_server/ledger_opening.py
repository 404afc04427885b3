"""Where the ledger lives: a file's path, or the URL of a database."""

from __future__ import annotations

from pathlib import Path

from .config import is_database
from .core.errors import InternalError, InvalidRequest, StartupError, Unavailable
from .session.ledger.ledger import Ledger
from .session.ledger.sqlite_ledger import SqliteLedger


async def open_ledger(location: str, default_ttl_seconds: int) -> Ledger:
    """Opens the ledger at a path, which is made where it is not there, or at a URL. Raises
    StartupError, without the URL's password."""
    try:
        if is_database(location):
            return await _open_database(location, default_ttl_seconds)
        path = Path(location)
        _make_folder(path.parent)
        ledger = SqliteLedger(path, default_ttl_seconds=default_ttl_seconds, alone=True)
        await ledger.end_leases()
        return ledger
    except (InternalError, InvalidRequest, Unavailable) as error:
        raise StartupError(f"the ledger {_shown(location)} cannot be opened: {error}") from error


async def check_ledger(location: str) -> None:
    """Opens the ledger once: what is wrong with it is known before models load. Raises StartupError."""
    ledger = await open_ledger(location, 0)
    await ledger.aclose()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"the ledger's folder {path} cannot be made ({(error.strerror or 'failed').lower()});"
            " name a file in another one"
        ) from error


async def _open_database(url: str, default_ttl_seconds: int) -> Ledger:
    try:
        from .session.ledger.postgres_ledger import PostgresLedger
    except ImportError as error:
        raise StartupError(
            "a ledger in PostgreSQL needs pip install 'outrider[postgres]'"
        ) from error
    return await PostgresLedger.open(url, default_ttl_seconds=default_ttl_seconds)


def _shown(location: str) -> str:
    """The location without user, password and parameters."""
    if not is_database(location):
        return location
    from .session.ledger.postgres_url import shown

    return shown(location)
