"""`outrider-server up`: three services that start, live and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import outrider
import pytest

from .processes import Services, children, connected, has_loaded, lives, reply_to, until

UP_WITH = ["up", "--listen=127.0.0.1:0", "--compile=off", "--slots=2"]
UP = [*UP_WITH, "--bundled"]


def command(process_id: int) -> str:
    """The subcommand that a child process runs."""
    return Path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")[4].decode()


@pytest.fixture
def up(services: Services, tmp_path):
    service = services.start(*UP, f"--ledger={tmp_path / 'ledger.db'}")
    service.wait_until_ready()
    return service


def test_up_serves_survives_its_draft_and_ends_with_all_its_children(up):
    processes = {command(child): child for child in children(up.process.pid)}
    assert set(processes) == {"target", "draft", "session"}
    with connected(up.address) as client:
        options = {"max_new_tokens": 30, "seed": 1, "draft": "model", "loop": "synchronous"}
        reply = reply_to(client, "def main():", **options)
        assert reply.summary.proposed > 0
        os.kill(processes["draft"], signal.SIGKILL)
        until(lambda: client.describe().draft is None)
        alone = reply_to(client, "def main():", **options)
        assert alone.tokens == reply.tokens
        assert alone.summary.degraded
    assert up.terminate() == 0
    until(lambda: not any(map(lives, processes.values())))
    assert "the draft service ended" in up.errors
    check_progress(up.progress)


def check_progress(lines: list[str]) -> None:
    """In plain lines: what each service does, in its order, until it serves; the session service is last."""
    for name in ("target", "draft"):
        told = [line.removeprefix(f"{name}: ") for line in lines if line.startswith(name)]
        stages = ("importing libraries", "reading configuration", "loading weights", "ready after ")
        places = [
            next(place for place, line in enumerate(told) if line.startswith(words))
            for words in stages
        ]
        assert places == sorted(places)
        assert any(line.startswith(("auditing shapes", "comparing with")) for line in told)
    assert lines[-1].startswith("session: ready after ")
    assert not any("\x1b" in line or "\r" in line for line in lines)


def test_up_ends_when_a_service_that_it_needs_does(up):
    processes = {command(child): child for child in children(up.process.pid)}
    os.kill(processes["target"], signal.SIGKILL)
    assert up.wait() == 1
    until(lambda: not any(map(lives, processes.values())))
    assert "the target service ended" in up.errors


def test_up_whose_terminal_closes_cuts_off_what_runs_and_leaves_nothing(up):
    processes = children(up.process.pid)
    with connected(up.address, resume_ms=0) as client:
        reply = client.create_session().generate(
            "def main():", max_new_tokens=1500, seed=1, logit_bias={0: -100.0}
        )
        next(reply)
        up.process.send_signal(signal.SIGHUP)
        with pytest.raises(outrider.StreamBrokenError):
            reply.read()
    assert up.wait() == 0
    assert not any(map(lives, processes))
    assert "Traceback" not in up.errors


def test_up_that_is_killed_leaves_neither_a_process_nor_a_folder(
    services: Services, tmp_path, monkeypatch
):
    """Even while its services start."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    service = services.start(*UP, f"--ledger={tmp_path / 'ledger.db'}")
    processes = until(lambda: len(found := children(service.process.pid)) == 2 and found)
    until(lambda: all(has_loaded(process, "uvloop") for process in processes))
    service.process.kill()
    until(lambda: not any(map(lives, processes)))
    until(lambda: not list(scratch.glob("outrider-*")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_up_waits_for_its_services_ends_them_and_prints_nothing(
    services: Services, tmp_path, number
):
    service = services.start(*UP, f"--ledger={tmp_path / 'ledger.db'}")
    processes = until(lambda: len(found := children(service.process.pid)) == 2 and found)
    until(lambda: all(has_loaded(process, "uvloop") for process in processes))
    service.process.send_signal(number)
    assert (service.wait(), service.errors) == (0, "")
    assert not any(map(lives, processes))


def test_an_interrupt_while_a_service_starts_prints_nothing(services: Services, tmp_path):
    service = services.start(
        "session", "--target=127.0.0.1:1", f"--ledger={tmp_path / 'ledger.db'}"
    )
    until(lambda: has_loaded(service.process.pid, "uvloop"))
    service.process.send_signal(signal.SIGINT)
    assert (service.wait(), service.errors) == (-signal.SIGINT, "")


def test_up_does_not_start_without_its_model_and_runs_nothing_that_lies_beside(
    services: Services, tmp_path
):
    ran = tmp_path / "ran"
    for name in ("random", "uvloop", "grpc", "outrider", "torch", "secrets"):
        (tmp_path / f"{name}.py").write_text(f"open({str(ran)!r}, 'a').write({name!r})\n")
    (tmp_path / "no-model").mkdir()
    arguments = ("--target=no-model", f"--ledger={tmp_path / 'ledger.db'}")
    service = services.start(*UP_WITH, *arguments, folder=tmp_path)
    assert service.wait() == 2
    assert service.address == ""
    assert (
        service.errors == f"outrider-server: model folder {tmp_path}/no-model has no config.json\n"
    )
    assert not ran.exists(), ran.read_text()


def test_up_refuses_a_folder_that_is_not_there_before_it_starts_a_service(
    services: Services, tmp_path
):
    for option in ("--target", "--draft"):
        arguments = (f"{option}=no-such-folder", f"--ledger={tmp_path / 'ledger.db'}")
        service = services.start(*UP_WITH, *arguments)
        assert service.wait() == 2
        assert service.errors == (
            "outrider-server: model folder no-such-folder does not exist; name a local folder of a model\n"
        )
        assert service.progress == []


@pytest.mark.parametrize("command", [["draft", "--compile=off"], UP], ids=["draft", "up"])
def test_a_terminal_gets_a_bar_and_an_interrupt_takes_it_away(
    tmp_path, monkeypatch, command: list[str]
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    drawn = bytearray()
    ours, terminal = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "outrider_server", *command, "--listen=127.0.0.1:0"], stderr=terminal
    ) as process:
        os.close(terminal)
        while b"importing libraries" not in drawn:
            drawn += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # the other end is closed
            while more := os.read(ours, 4096):
                drawn += more
    os.close(ours)
    assert process.returncode == (0 if command is UP else -signal.SIGINT)
    assert drawn.endswith(b"\x1b[2K"), "the line is erased"
    assert b"\x1b[?25l" not in drawn, "the cursor was never hidden"
