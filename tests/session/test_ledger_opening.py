"""Where the ledger lives: paths, URLs, and errors that keep a password to themselves."""

import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

import pytest
from outrider_server.config import SessionConfig, is_database
from outrider_server.core.errors import StartupError
from outrider_server.ledger_opening import open_ledger

PASSWORD = "geheim"
HOLDER = """
import asyncio, sys
from outrider_server.ledger_opening import open_ledger

async def hold(path):
    ledger = await open_ledger(path, 60)
    session_id = (await ledger.create_session("", "model")).session_id
    await ledger.take_over(session_id, "dead", None)
    print(session_id, flush=True)
    await asyncio.Event().wait()

asyncio.run(hold(sys.argv[1]))
"""


async def test_a_path_is_a_file_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "ledger.db"
    async with aclosing(await open_ledger(str(path), 60)) as ledger:
        assert (await ledger.create_session("", "model")).ttl_seconds == 60
    assert path.exists()


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("postgresql://host/db", True),
        ("postgres://host/db", True),
        ("/var/lib/ledger.db", False),
        ("postgresql", False),
    ],
)
def test_a_url_is_told_from_a_path(place: str, expected: bool) -> None:
    assert is_database(place) is expected


def test_another_databases_url_is_refused_before_anything_is_started() -> None:
    with pytest.raises(StartupError, match=r"postgresql://.*mysql://") as refused:
        SessionConfig(ledger=f"mysql://ada:{PASSWORD}@host/db")
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{PASSWORD}@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?user=ada&password={PASSWORD}",
        f"postgresql://ada:{PASSWORD}@[::1/db",
        f"postgresql://ada:{PASSWORD}@host:port/db",
        f"postgresql://ada:a%{PASSWORD}@host/db",
        f"postgresql://ada@127.0.0.1:1/db?passphrase={PASSWORD}",
        f"postgresql://ada:{PASSWORD}@127.0.0.1:1/db?connect_timeout=soon",
    ],
)
async def test_a_database_that_cannot_be_opened_is_one_sentence_without_the_password(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StartupError, match="ledger") as refused:
        await open_ledger(url, 0)
    message = str(refused.value)
    assert PASSWORD not in message + caplog.text
    assert len(message.splitlines()) == 1


async def test_a_file_serves_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    (tmp_path / "alias.db").symlink_to(path)
    async with aclosing(await open_ledger(str(path), 0)) as ledger:
        session_id = (await ledger.create_session("", "model")).session_id
        for name in (path, tmp_path / "alias.db"):
            with pytest.raises(StartupError, match="another service has it open; give each"):
                await open_ledger(str(name), 0)
        assert (await ledger.get_session(session_id, "")).session_id == session_id
    async with aclosing(await open_ledger(str(path), 0)) as ledger:
        assert (await ledger.get_session(session_id, "")).session_id == session_id


def start_holder(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", HOLDER, str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_a_killed_service_leaves_neither_its_file_nor_its_sessions_held(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    with start_holder(path) as holder:
        assert holder.stdout is not None
        session_id = holder.stdout.readline().strip()
        with pytest.raises(StartupError, match="another service has it open"):
            await open_ledger(str(path), 0)
        holder.kill()
    async with aclosing(await open_ledger(str(path), 0)) as ledger:
        held = await ledger.get_session(session_id, "")
        assert (held.holder, held.lease_until_us, held.is_held) == ("", 0, False)
        assert held.expires_us is not None
        assert held.expires_us >= held.updated_us + 60_000_000, "in use until its service died"


async def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StartupError, match=r"folder .* cannot be made .*name a file in another"):
        await open_ledger(str(tmp_path / "file" / "ledger.db"), 0)
