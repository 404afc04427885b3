"""Service processes as an operator starts them: by the command, with the bundled pair or any folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import outrider

START_SECONDS = 120.0
STOP_SECONDS = 90.0
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 200)]
ENGINE = ["--compile=off", "--slots=4", "--threads=1"]
PROGRESS = re.compile(r"(target|draft|session): ")


class Service:
    """One `outrider-server` process. `address` is set once it is ready."""

    def __init__(
        self, *arguments: str, module: str = "outrider_server", folder: Path | None = None
    ) -> None:
        self.module = module
        self.folder = folder
        self.arguments = arguments
        self._launch(arguments)

    def _launch(self, arguments: tuple[str, ...]) -> None:
        self.address = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._ready = threading.Event()
        self._errors: list[str] = []
        self._progress: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def start_again(self) -> None:
        """Starts it anew at the address that it had, after it has ended."""
        listen = f"--listen={self.address}"
        self.close()
        self._launch(
            tuple(listen if each.startswith("--listen=") else each for each in self.arguments)
        )

    @property
    def errors(self) -> str:
        """What it wrote to stderr but for how far its start was; all of it once it has ended."""
        return "".join(self._errors)

    @property
    def progress(self) -> list[str]:
        """What it wrote to stderr of how far its start was, a line each."""
        return list(self._progress)

    def wait_until_ready(self) -> str:
        """Its address. Fails the test when it ends first or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not self._ready.wait(0.02):
            assert self.process.poll() is None, f"{self.arguments} ended: {self.errors}"
            assert time.monotonic() < deadline, f"{self.arguments} is not ready: {self.errors}"
        return self.address

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.wait()

    def wait(self) -> int:
        """Its exit status, once it has ended."""
        status = self.process.wait(STOP_SECONDS)
        for reader in self._readers:
            reader.join(STOP_SECONDS)
        return status

    def close(self) -> None:
        """Ends it if it still runs, whatever state it is in."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.process.stdout.close()
        self.process.stderr.close()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("ready "):
                self.address = line.removeprefix("ready ").strip()
                self._ready.set()

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            (self._progress if PROGRESS.match(line) else self._errors).append(line)


class Services:
    """Processes that are ended together, the last one first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[Service] = []

    def start(
        self, *arguments: str, module: str = "outrider_server", folder: Path | None = None
    ) -> Service:
        """Starts a process, in a folder of its own where one is given, without waiting for it."""
        service = Service(*arguments, module=module, folder=folder)
        self._running.append(service)
        return service

    def target(self, listen: str = "127.0.0.1:0") -> Service:
        """Starts the bundled target."""
        return self.start("target", f"--listen={listen}", *ENGINE)

    def draft(self, listen: str = "127.0.0.1:0") -> Service:
        """Starts the bundled draft."""
        return self.start("draft", f"--listen={listen}", *ENGINE)

    def session(
        self, target: str, draft: str = "none", listen: str = "127.0.0.1:0", ledger: str = "ledger"
    ) -> Service:
        """Starts a session service; those with the same ledger share their sessions."""
        return self.start(
            "session",
            f"--target={target}",
            f"--draft={draft}",
            f"--listen={listen}",
            f"--ledger={self.folder / ledger}.db",
        )

    def close(self) -> None:
        """Ends all."""
        for service in reversed(self._running):
            service.close()


@contextmanager
def connected(address: str, resume_ms: int = 30_000) -> Iterator[outrider.Client]:
    """A client with a connection of its own."""
    with outrider.Client(address, channel_options=OWN_CONNECTION, resume_ms=resume_ms) as client:
        yield client


def until(holds: Callable[[], Any], seconds: float = START_SECONDS) -> Any:
    """The first true value of `holds`; fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.02)
    return value


def children(process_id: int) -> list[int]:
    """The child processes of a process."""
    tasks = Path(f"/proc/{process_id}/task/{process_id}/children")
    return [int(child) for child in tasks.read_text().split()]


def lives(process_id: int) -> bool:
    """True while the process runs."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def has_loaded(process_id: int, library: str) -> bool:
    """True once a process has a library in memory."""
    return library in Path(f"/proc/{process_id}/maps").read_text()


def reply_to(client: outrider.Client, prompt: Any, **options: Any) -> outrider.Reply:
    """One turn of a new session, read to its end."""
    return client.create_session().generate(prompt, **options).read()
