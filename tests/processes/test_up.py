"""`outrider-server up`: three services that start, live and end together."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from .processes import Services, connected, reply_to, until

UP = ["up", "--listen=127.0.0.1:0", "--compile=off", "--slots=2"]


def children(process_id: int) -> list[int]:
    """The child processes of a process."""
    tasks = Path(f"/proc/{process_id}/task/{process_id}/children")
    return [int(child) for child in tasks.read_text().split()]


def lives(process_id: int) -> bool:
    """True while the process runs."""
    status = Path(f"/proc/{process_id}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def command(process_id: int) -> str:
    """The subcommand that a child process runs."""
    return Path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")[3].decode()


@pytest.fixture
def up(services: Services, tmp_path):
    service = services.start(*UP, f"--ledger={tmp_path / 'ledger.db'}")
    service.wait_until_ready()
    return service


def test_up_serves_survives_its_draft_and_ends_with_all_its_children(up):
    processes = {command(child): child for child in children(up.process.pid)}
    assert set(processes) == {"target", "draft", "session"}
    with connected(up.address) as client:
        reply = reply_to(client, "def main():", max_new_tokens=30, seed=1, draft="model")
        assert reply.summary.proposed > 0
        os.kill(processes["draft"], signal.SIGKILL)
        until(lambda: client.describe().draft is None)
        alone = reply_to(client, "def main():", max_new_tokens=30, seed=1, draft="model")
        assert alone.tokens == reply.tokens
        assert alone.summary.degraded
    assert up.terminate() == 0
    until(lambda: not any(map(lives, processes.values())))
    assert "the draft service ended" in up.errors


def test_up_ends_when_a_service_that_it_needs_does(up):
    processes = {command(child): child for child in children(up.process.pid)}
    os.kill(processes["target"], signal.SIGKILL)
    assert up.wait() == 1
    until(lambda: not any(map(lives, processes.values())))
    assert "the target service ended" in up.errors


def test_up_does_not_start_without_its_model(services: Services, tmp_path):
    service = services.start(*UP, "--target=no-such-folder", f"--ledger={tmp_path / 'ledger.db'}")
    assert service.wait() == 2
    assert service.address == ""
    assert "no-such-folder" in service.errors
    assert "the target service did not start" in service.errors
