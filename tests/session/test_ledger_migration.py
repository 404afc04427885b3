"""A SQLite ledger of another version: an older one is brought up to date, a newer one is left alone."""

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import pytest
from outrider_server.core.errors import InternalError, LedgerUnusable
from outrider_server.core.types import FinishReason, TokenLogprobs, TokenSource
from outrider_server.session.ledger.ledger import LedgerToken
from outrider_server.session.ledger.sqlite_file import SqliteFile
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger
from outrider_server.session.ledger.sqlite_schema import MIGRATIONS, SCHEMA_VERSION

from .ledger_fixtures import generated


def written_by_schema_1(path: Path) -> None:
    """A file as the first version left it: a session of two turns, the second of them unfinished."""
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parent / "ledger_schema_1.sql").read_text())
    connection.close()


async def test_a_file_of_the_first_schema_is_migrated_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    written_by_schema_1(path)
    for _ in range(2):  # migrated once, then as any other
        async with aclosing(SqliteLedger(path)) as ledger:
            (session,) = (await ledger.list_sessions("ada", 10)).sessions
            assert (session.epoch, session.length, session.turn_count) == (2, 7, 2)
            assert (session.expires_us, session.ttl_seconds) == (None, 0)
            assert (session.holder, session.lease_until_us) == ("", 0)
            assert await ledger.tokens(session.session_id) == [1, 2, 3, 4, 5, 2**32 - 1, 7]
            assert await ledger.turn_tokens(session.session_id, 0) == [
                LedgerToken(4, TokenSource.DRAFT),
                LedgerToken(5, TokenSource.TARGET, TokenLogprobs(-0.5, ((5, -0.5), (9, -1.25)))),
                LedgerToken(2**32 - 1, TokenSource.NGRAM),
            ]
            turns = await ledger.turns(session.session_id)
            assert [turn.request_id for turn in turns] == ["first", "second"]
            assert [turn.finish_reason for turn in turns] == [FinishReason.LENGTH, None]
            assert not any(turn.is_cut for turn in turns)
    async with aclosing(SqliteLedger(path)) as ledger:
        epoch = (await ledger.take_over(session.session_id, "ada", 5.0)).epoch
        await ledger.append(session.session_id, epoch, 7, generated(8))
        copy = await ledger.fork(session.session_id, "ada", 5)
        assert await ledger.tokens(copy.session_id) == [1, 2, 3, 4, 5]
        record = await ledger.rewind(session.session_id, epoch, 8, 6)
        assert (record.length, record.turn_count) == (6, 1)


def test_a_migration_that_fails_leaves_the_file_in_the_old_schema(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    written_by_schema_1(path)
    fails_late = (*MIGRATIONS[:1], (*MIGRATIONS[1], "CREATE TABLE sessions (again)"))
    with pytest.raises(LedgerUnusable):
        SqliteFile(path, fails_late, 5000, {})
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    columns = [row[1] for row in connection.execute("PRAGMA table_info (sessions)")]
    connection.close()
    assert "ttl_us" not in columns
    assert "epoch" in columns


def test_a_file_that_two_migrate_at_once_is_migrated_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    written_by_schema_1(path)
    with ThreadPoolExecutor(4) as threads:
        ledgers = list(threads.map(SqliteLedger, [path] * 4))
    for ledger in ledgers:
        asyncio.run(ledger.aclose())
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    connection.close()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE sessions (anything)")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InternalError, match=rf"newer.*schema {SCHEMA_VERSION + 1}"):
        SqliteLedger(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
