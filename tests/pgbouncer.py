"""A real pgbouncer in front of the tests' PostgreSQL, which gives each transaction any of few connections."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from postgres_server import START_SECONDS, USER, PostgresServer, account

PORT = 6432
SETTINGS = """
[databases]
* = host={server}
[pgbouncer]
listen_addr =
unix_socket_dir = {folder}
listen_port = {port}
auth_type = trust
auth_file = {folder}/users
pool_mode = {mode}
default_pool_size = 4
server_login_retry = 1
server_idle_timeout = 1
logfile = {folder}/log
"""


def program() -> str | None:
    """Where pgbouncer is; None where it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


class Pooler:
    """A pgbouncer of one test. `folder` is its socket's."""

    def __init__(self, server: PostgresServer, folder: Path, mode: str) -> None:
        found = program()
        assert found is not None, "look for `program` first"
        self.folder = folder
        (folder / "users").write_text(f'"{USER}" ""\n')
        settings = SETTINGS.format(server=server.folder, folder=folder, port=PORT, mode=mode)
        (folder / "settings.ini").write_text(settings)
        command: list[str] = []
        if (owner := account()) is not None:
            os.chown(folder, *owner)
            command = ["setpriv", f"--reuid={owner[0]}", f"--regid={owner[1]}", "--clear-groups"]
        command += [found, "-q", str(folder / "settings.ini")]
        self.process = subprocess.Popen(command, cwd=folder)

    def url(self, database: str = "postgres") -> str:
        """Where a ledger finds a database through it."""
        return f"postgresql://{USER}@/{database}?host={self.folder}&port={PORT}"

    def wait_until_ready(self) -> None:
        """Returns once it lets connections through."""
        give_up = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url()).close()
                return
            assert time.monotonic() < give_up, (self.folder / "log").read_text()
            time.sleep(0.02)


@contextmanager
def running_pooler(server: PostgresServer, mode: str = "transaction") -> Iterator[Pooler]:
    """A pooler for as long as the context lasts."""
    folder = Path(tempfile.mkdtemp(prefix="outrider-pgb-"))
    try:
        pooler = Pooler(server, folder, mode)
        try:
            pooler.wait_until_ready()
            yield pooler
        finally:
            pooler.process.send_signal(signal.SIGINT)
            pooler.process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
