"""What is wrong with the ledger's store, in one sentence that says what to do, and whether it may pass."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from outrider_server.core.errors import (
    InternalError,
    LedgerUnavailable,
    LedgerUnusable,
    OutriderError,
    StartupError,
    Unavailable,
)
from outrider_server.ledger_opening import open_ledger
from outrider_server.session.ledger import postgres_faults, sqlite_faults
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger
from postgres_server import PostgresServer

from .ledger_fixtures import generated, started_session

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that other users may look into."""
    path = Path(tempfile.mkdtemp(prefix="ledger"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@contextmanager
def without_rights() -> Iterator[None]:
    """Root may write everything, so it is somebody else meanwhile."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow: the kernel refuses the write, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_text(path: Path) -> None:
    path.write_text("shopping list\n" * 100)


def make_foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE recipes (name)")


async def make_ledger(path: Path) -> None:
    async with aclosing(SqliteLedger(path)) as ledger:
        await started_session(ledger, 1)


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute(statement)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (make_folder, "it is a folder, or no file at all; name a file"),
        (make_pipe, "it is a folder, or no file at all; name a file"),
        (make_text, "is no SQLite database; name another file"),
        (make_foreign, "is no file of Outrider's"),
    ],
)
async def test_what_is_no_ledger_is_fatal_in_one_sentence(
    tmp_path: Path, make: Callable[[Path], None], says: str
) -> None:
    path = tmp_path / "ledger.db"
    make(path)
    with pytest.raises(StartupError, match=says) as refused:
        await open_ledger(str(path), 0)
    assert str(refused.value).startswith(f"the ledger {path} cannot be opened: ")
    assert len(str(refused.value).splitlines()) == 1
    assert "try again" not in str(refused.value)


@pytest.mark.parametrize("table", ["sessions", "turns", "chunks", "dropped_requests"])
async def test_a_dropped_table_is_fatal_at_the_start(tmp_path: Path, table: str) -> None:
    await make_ledger(tmp_path / "ledger.db")
    change(tmp_path / "ledger.db", f"DROP TABLE {table}")
    with pytest.raises(StartupError, match=rf"are gone \({table}\); put a backup"):
        await open_ledger(str(tmp_path / "ledger.db"), 0)


@contextmanager
def of_mode(path: Path, mode: int) -> Iterator[None]:
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


async def test_a_file_that_may_not_be_written_is_fatal_at_the_start(folder: Path) -> None:
    path = folder / "ledger.db"
    await make_ledger(path)
    refused = pytest.raises(StartupError, match=r"is read-only.*let the service write")
    with of_mode(path, 0o444), of_mode(folder, 0o555), without_rights(), refused:
        await open_ledger(str(path), 0)


async def test_a_folder_that_may_not_be_written_is_fatal_at_the_start(folder: Path) -> None:
    refused = pytest.raises(StartupError, match=r"is read-only.*let the service write")
    with of_mode(folder, 0o555), without_rights(), refused:
        await open_ledger(str(folder / "ledger.db"), 0)


async def test_a_locked_file_says_so_at_the_start(tmp_path: Path) -> None:
    await make_ledger(tmp_path / "ledger.db")
    with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="another program holds the ledger's file locked"):
            SqliteLedger(tmp_path / "ledger.db", busy_timeout_ms=0)


async def test_while_it_runs_a_full_disk_and_a_lock_may_pass(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with aclosing(SqliteLedger(path, busy_timeout_ms=0)) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        with full_disk(), pytest.raises(Unavailable, match="disk of the ledger's file is full"):
            await ledger.append(session_id, epoch, 1, generated(*range(5000)))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(Unavailable, match="holds the ledger's file locked"):
                await ledger.append(session_id, epoch, 1, generated(2))
        await ledger.append(session_id, epoch, 1, generated(2))
        assert await ledger.tokens(session_id) == [1, 2]


@pytest.mark.parametrize("table", ["chunks", "turns"])
async def test_while_it_runs_a_dropped_table_stays(tmp_path: Path, table: str) -> None:
    async with aclosing(SqliteLedger(tmp_path / "ledger.db")) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        change(tmp_path / "ledger.db", f"DROP TABLE {table}")
        with pytest.raises(LedgerUnusable, match=r"lacks tables of this version.*backup"):
            await (ledger.tokens(session_id) if table == "chunks" else ledger.turns(session_id))
        if table == "chunks":
            with pytest.raises(LedgerUnusable):
                await ledger.append(session_id, epoch, 1, generated(2))


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_BUSY_SNAPSHOT, LedgerUnavailable),
        (sqlite3.SQLITE_FULL, LedgerUnavailable),
        (sqlite3.SQLITE_IOERR_WRITE, LedgerUnavailable),
        (sqlite3.SQLITE_READONLY_DBMOVED, LedgerUnusable),
        (sqlite3.SQLITE_CORRUPT_INDEX, LedgerUnusable),
        (sqlite3.SQLITE_NOTADB, LedgerUnusable),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, InternalError),
        (None, InternalError),
    ],
)
def test_extended_codes_mean_what_their_primary_ones_do(
    code: int | None, kind: type[OutriderError]
) -> None:
    error = sqlite3.OperationalError("/secret/path is wrong")
    if code is not None:
        error.sqlite_errorcode = code  # type: ignore[misc]
    found = sqlite_faults.fault(error)
    assert type(found) is kind
    assert "secret" not in str(found)


@pytest.mark.parametrize(
    ("state", "kind", "says"),
    [
        ("53100", LedgerUnavailable, "disk of the ledger's database is full"),
        ("25006", LedgerUnavailable, "standby"),
        ("0A000", LedgerUnavailable, "standby"),
        ("55P03", LedgerUnavailable, "locked by another program"),
        ("57014", LedgerUnavailable, "too long"),
        ("08006", LedgerUnavailable, "cannot be reached"),
        ("42P01", LedgerUnusable, "table.*is gone"),
        ("42501", LedgerUnusable, "does not allow"),
        ("22012", InternalError, "refused a statement"),
    ],
)
def test_a_databases_states_are_told_apart(
    state: str, kind: type[OutriderError], says: str
) -> None:
    error = psycopg.errors.lookup(state)("the password is swordfish")
    found = postgres_faults.fault(error)
    assert type(found) is kind
    assert re.search(says, str(found))
    assert "swordfish" not in str(found)


async def test_a_databases_dropped_table_is_fatal_at_the_start_and_stays_while_it_runs(
    postgres: PostgresServer,
) -> None:
    with postgres.connect() as connection:
        connection.execute("CREATE SCHEMA dropped")
    url = postgres.url("dropped")
    async with aclosing(await open_ledger(url, 0)) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("DROP TABLE chunks")
        with pytest.raises(LedgerUnusable, match="a table of the ledger's database is gone"):
            await ledger.append(session_id, epoch, 1, generated(2))
    with pytest.raises(StartupError, match=r"are gone \(chunks\); restore a backup"):
        await open_ledger(url, 0)


@pytest.mark.parametrize("digits", [19, 20, 5000])
async def test_a_page_token_of_many_digits_is_refused(tmp_path: Path, digits: int) -> None:
    async with aclosing(SqliteLedger(tmp_path / "ledger.db")) as ledger:
        with pytest.raises(OutriderError, match="page_token is not one") as refused:
            await ledger.list_sessions("", 1, "9" * digits + "-x")
        assert refused.value.field == "page_token"  # type: ignore[attr-defined]
