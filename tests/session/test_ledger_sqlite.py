"""The SQLite ledger keeps every ledger's promises, and those of a file on a disk."""

import asyncio
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from pathlib import Path

import pytest
from outrider_server.core.errors import InternalError, Unavailable
from outrider_server.session.ledger.ledger import Ledger
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger
from outrider_server.session.ledger.steady_clock import SteadyClock

from .ledger_conformance import LedgerConformance
from .ledger_fixtures import generated, started_session

WRITER = """
import asyncio, sys
from pathlib import Path
from outrider_server.session.ledger.ledger import LedgerToken
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger
from outrider_server.core.types import TokenSource

async def write(path, session_id, epoch):
    ledger = SqliteLedger(Path(path))
    length = 1
    while True:
        tokens = [LedgerToken(length + offset, TokenSource.DRAFT) for offset in range(3)]
        await ledger.append(session_id, int(epoch), length, tokens)
        length += 3
        print(length, flush=True)

asyncio.run(write(*sys.argv[1:]))
"""
RACER = """
import asyncio, sys
from pathlib import Path
from outrider_server.session.ledger.ledger import LedgerToken
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger
from outrider_server.core.errors import PositionMismatch
from outrider_server.core.types import TokenSource

async def race(path, session_id, epoch, rounds, name):
    ledger = SqliteLedger(Path(path))
    print("ready", flush=True)
    sys.stdin.readline()
    length, won = 1, []
    while length <= int(rounds):
        try:
            token = LedgerToken(int(name), TokenSource.TARGET)
            await ledger.append(session_id, int(epoch), length, [token])
            won.append(length)
            length += 1
        except PositionMismatch as behind:
            length = behind.position
    await ledger.aclose()
    print(*won)

asyncio.run(race(*sys.argv[1:]))
"""


class TestSqliteLedger(LedgerConformance):
    offset_us = 0

    async def open_store(self, folder: Path, default_ttl_seconds: int = 0) -> Ledger:
        return SqliteLedger(
            folder / "ledger.sqlite",
            default_ttl_seconds=default_ttl_seconds,
            clock=SteadyClock(self.now_us, self.now_us),
        )

    def now_us(self) -> int:
        return time.time_ns() // 1000 + self.offset_us

    def pass_time(self, seconds: float) -> None:
        self.offset_us += int(seconds * 1_000_000)


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


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


async def test_everything_survives_reopening(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    async with aclosing(SqliteLedger(path)) as ledger:
        session_id, epoch = await started_session(ledger, 1, 2)
        await ledger.append(session_id, epoch, 2, generated(3))
        session = await ledger.get_session(session_id, "")
        turns = await ledger.turns(session_id)
    async with aclosing(SqliteLedger(path)) as ledger:
        assert await ledger.get_session(session_id, "") == session
        assert await ledger.turns(session_id) == turns
        assert await ledger.tokens(session_id) == [1, 2, 3]
        assert await ledger.turn_tokens(session_id, 0) == generated(3)


async def test_killing_the_writer_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    async with aclosing(SqliteLedger(path)) as ledger:
        session_id, epoch = await started_session(ledger, 0)
    with start(WRITER, path, session_id, epoch) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(50)]
        writer.kill()
        acknowledged += map(int, writer.stdout.read().split())
    async with aclosing(SqliteLedger(path)) as ledger:
        tokens = await ledger.tokens(session_id)
        assert len(tokens) >= acknowledged[-1]
        assert len(tokens) % 3 == 1
        assert tokens == list(range(len(tokens)))
        assert (await ledger.get_session(session_id, "")).length == len(tokens)
        await ledger.append(session_id, epoch, len(tokens), generated(7))


async def test_processes_that_race_win_every_position_exactly_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    rounds = 60
    async with aclosing(SqliteLedger(path)) as ledger:
        session_id, epoch = await started_session(ledger, 0)
        with (
            start(RACER, path, session_id, epoch, rounds, 1) as first,
            start(RACER, path, session_id, epoch, rounds, 2) as second,
        ):
            for racer in (first, second):
                assert racer.stdout is not None
                assert racer.stdout.readline() == "ready\n"
            won = [racer.communicate("go\n")[0] for racer in (first, second)]
        expected = {int(at): name for name, line in enumerate(won, 1) for at in line.split()}
        assert sum(len(line.split()) for line in won) == len(expected) == rounds
        assert await ledger.tokens(session_id, 1) == [expected[at + 1] for at in range(rounds)]


async def test_a_full_disk_is_try_later_and_writes_nothing(tmp_path: Path) -> None:
    async with aclosing(SqliteLedger(tmp_path / "ledger.sqlite")) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        before = await ledger.get_session(session_id, "")
        with full_disk(), pytest.raises(Unavailable):
            await ledger.append(session_id, epoch, 1, generated(*range(5000)))
        assert await ledger.get_session(session_id, "") == before
        assert await ledger.tokens(session_id) == [1]
        await ledger.append(session_id, epoch, 1, generated(2))
        assert await ledger.tokens(session_id) == [1, 2]


async def test_a_write_that_fails_halfway_writes_nothing(tmp_path: Path) -> None:
    async with aclosing(SqliteLedger(tmp_path / "ledger.sqlite")) as ledger:
        session_id, _ = await started_session(ledger, 1)

        def fails(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM sessions")
            raise KeyError("halfway")

        with pytest.raises(KeyError):
            await ledger._file.write(fails)
        assert await ledger.tokens(session_id) == [1]


@pytest.mark.parametrize("broken", [KeyError, sqlite3.IntegrityError])
async def test_writes_committed_together_succeed_and_fail_each_for_itself(
    tmp_path: Path, broken: type[Exception]
) -> None:
    """Four writes wait while a fifth holds the ledger's thread; one of them fails in its middle."""
    async with aclosing(SqliteLedger(tmp_path / "ledger.sqlite")) as ledger:
        sessions = [await started_session(ledger, 1) for _ in range(3)]
        commits: list[str] = []
        held, go = threading.Event(), threading.Event()

        def hold(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(
                lambda statement: commits.append(statement) if statement == "COMMIT" else None
            )
            held.set()
            go.wait(10)

        def fails(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM sessions")
            raise broken("halfway")

        first = asyncio.create_task(ledger._file.write(hold))
        await asyncio.to_thread(held.wait)
        writes = [
            asyncio.create_task(ledger.append(session_id, epoch, 1, generated(2, 3)))
            for session_id, epoch in sessions[:2]
        ]
        writes.append(asyncio.create_task(ledger._file.write(fails)))
        session_id, epoch = sessions[2]
        writes.append(asyncio.create_task(ledger.append(session_id, epoch, 1, generated(4))))
        await asyncio.sleep(0)
        go.set()
        await first
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert [outcome for outcome in outcomes if outcome is not None] == [outcomes[2]]
        assert isinstance(outcomes[2], (KeyError, InternalError))
        assert len(commits) == (2 if broken is KeyError else 4), "the held one, and the others"
        for session_id, _ in sessions[:2]:
            assert await ledger.tokens(session_id) == [1, 2, 3]
        assert await ledger.tokens(sessions[2][0]) == [1, 4]


async def test_a_locked_file_is_try_later_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    async with aclosing(SqliteLedger(path, busy_timeout_ms=0)) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            await ledger.append(session_id, epoch, 1, generated(2))
        assert await ledger.tokens(session_id) == [1]
        other.close()
        await ledger.append(session_id, epoch, 1, generated(2))
        assert await ledger.tokens(session_id) == [1, 2]


async def test_a_write_that_waits_for_the_disk_does_not_block_the_event_loop(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.sqlite"
    async with aclosing(SqliteLedger(path)) as ledger:
        session_id, epoch = await started_session(ledger, 1)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        write = asyncio.create_task(ledger.append(session_id, epoch, 1, generated(2)))
        for _ in range(100):
            await asyncio.sleep(0)
        assert not write.done()
        other.close()
        await write
        assert await ledger.tokens(session_id) == [1, 2]


def test_a_foreign_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(InternalError, match="no file of Outrider's"):
        SqliteLedger(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("shopping list\n" * 100)
    with pytest.raises(InternalError):
        SqliteLedger(path)
    assert path.read_text() == "shopping list\n" * 100


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="see that its folder is there"):
        SqliteLedger(tmp_path / "missing" / "ledger.sqlite")


async def test_many_that_open_a_new_file_at_once_all_succeed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with ThreadPoolExecutor(8) as threads:
        ledgers = list(threads.map(SqliteLedger, [path] * 8))
    session = await ledgers[0].create_session("", "model")
    for ledger in ledgers:
        assert await ledger.get_session(session.session_id, "") == session
        await ledger.aclose()


async def test_commits_are_forced_to_the_disk(tmp_path: Path) -> None:
    async with aclosing(SqliteLedger(tmp_path / "ledger.sqlite")) as ledger:
        settings = await ledger._file.read(
            lambda connection: [
                connection.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("journal_mode", "synchronous", "foreign_keys")
            ]
        )
    assert settings == ["wal", 2, 1]
