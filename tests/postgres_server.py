"""A PostgreSQL server of the tests' own: in a temporary folder, on a Unix socket, for one run.

Its fsync is off, which makes it faster: tests kill the server, never the machine's power.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

START_SECONDS = 60.0
USER = "postgres"
SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "shared_buffers": "16MB",
    "max_connections": "50",
    "log_min_messages": "fatal",
}


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`; None where PostgreSQL is not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


def account() -> tuple[int, int] | None:
    """User and group that a server runs as, where it is not this process's: it refuses to run as root."""
    if os.geteuid():
        return None
    entry = pwd.getpwnam(USER)
    return entry.pw_uid, entry.pw_gid


class PostgresServer:
    """A server that can be killed and started again. `folder` is its socket's."""

    def __init__(
        self,
        folder: Path,
        settings: dict[str, str] | None = None,
        primary: PostgresServer | None = None,
    ) -> None:
        """With a primary, a standby that follows it."""
        programs_folder = programs()
        assert programs_folder is not None, "look for `programs` first"
        self.folder = folder
        self._programs = programs_folder
        self._as: tuple[str, ...] = ()
        self._settings = SETTINGS | (settings or {})
        self._process: subprocess.Popen[bytes] | None = None
        if (found := account()) is not None:
            os.chown(folder, *found)
            # The system's program, because a process that changes users itself is forked with all of gRPC's
            # threads in it.
            self._as = ("setpriv", f"--reuid={found[0]}", f"--regid={found[1]}", "--clear-groups")
        data = str(folder / "data")
        if primary is None:
            options = ["-A", "trust", "-U", USER, "--no-sync", "--encoding=UTF8", "--locale=C"]
            make: list[Any] = [self._programs / "initdb", "-D", data, *options]
        else:
            options = ["-h", str(primary.folder), "-U", USER, "--write-recovery-conf", "--no-sync"]
            make = [self._programs / "pg_basebackup", "-D", data, "--checkpoint=fast", *options]
        subprocess.run([*self._as, *make], check=True, capture_output=True, cwd=folder)

    def url(self, schema: str = "public") -> str:
        """Where a ledger finds a schema of its own."""
        return f"postgresql://{USER}@/postgres?host={self.folder}&options=-csearch_path%3D{schema}"

    def start(self) -> None:
        """Starts the server and waits until it takes connections."""
        give_up = time.monotonic() + START_SECONDS
        while True:
            if self._process is None or self._process.poll() is not None:
                # One that was killed keeps its memory until its children have noticed.
                self._process = self._launch()
            with contextlib.suppress(psycopg.OperationalError):
                self.connect().close()
                return
            assert time.monotonic() < give_up, (self.folder / "log").read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, to its children too, which would answer who is connected until they notice."""
        assert self._process is not None, "a server that runs can be killed"
        number = self._process.pid
        children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
        self._end(signal.SIGKILL)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), signal.SIGKILL)

    def promote(self) -> None:
        """Makes a standby the primary."""
        with self.connect() as connection:
            connection.execute("SELECT pg_promote()")

    def freeze(self, number: int) -> None:
        """SIGSTOP or SIGCONT, to all its processes."""
        assert self._process is not None, "a server that runs can be frozen"
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        for each in (parent, *map(int, children)):
            os.kill(each, number)

    def stop(self) -> None:
        """Ends every connection at once."""
        self._end(signal.SIGQUIT)

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection that commits each statement."""
        return psycopg.connect(self.url(), dbname=database, autocommit=True)

    def _launch(self) -> subprocess.Popen[bytes]:
        arguments = [f"-c{name}={value}" for name, value in self._settings.items()]
        arguments += [f"-cunix_socket_directories={self.folder}", "-D", str(self.folder / "data")]
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*self._as, self._programs / "postgres", *arguments],
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )

    def _end(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None


@contextmanager
def running_server(
    settings: dict[str, str] | None = None, primary: PostgresServer | None = None
) -> Iterator[PostgresServer]:
    """A server for as long as the context lasts. `settings` go over the tests' own."""
    folder = Path(tempfile.mkdtemp(prefix="outrider-pg-"))
    try:
        server = PostgresServer(folder, settings, primary)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
