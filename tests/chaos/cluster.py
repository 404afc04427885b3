"""The three services as processes that can be killed, frozen and started again at their address.

Owns the processes and the doors before them. They are forked from one process that has imported their
libraries, which is most of what a start takes; each then runs the command as an operator does.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from services.tiny_models import blur, save_model

from .database import Database
from .door import Door
from .process import serve

SERVICES = ("target", "draft", "session")
DATABASE = "database"
"""One more, where the ledger is in one."""
START_SECONDS = 120.0
PORTS = range(10_000, 32_000)
"""Below those that the system gives to outgoing connections, which could take that of a dead service."""
ENGINE = ("--compile=off", "--threads=1", "--slots=8")

_forking = multiprocessing.get_context("forkserver")
_forking.set_forkserver_preload(
    [
        "outrider_server.commands.engines",
        "outrider_server.host.engine_host",
        "outrider_server.target.service",
        "outrider_server.draft.service",
        "outrider_server.session.service",
    ]
)


class Service:
    """One process of `outrider-server`, always at the same address."""

    def __init__(self, name: str, arguments: Sequence[str], folder: Path) -> None:
        self.address = f"127.0.0.1:{_free_port()}"
        self.door = Door(self.address)
        self._arguments = (name, f"--listen={self.address}", *arguments)
        self._output = folder / f"{name}.out"

    def start(self) -> None:
        """Starts it; it is not ready yet."""
        self._output.write_text("")
        self._process = _forking.Process(
            target=serve, args=(self._arguments, str(self._output)), daemon=True
        )
        self._process.start()

    async def until_ready(self) -> float:
        """The time when it was ready. Fails when it ends first or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while "ready " not in self.said:
            assert self._process.is_alive(), f"{self._arguments} ended: {self.said}"
            assert time.monotonic() < deadline, f"{self._arguments} is not ready"
            await asyncio.sleep(0.01)
        return time.monotonic()

    @property
    def said(self) -> str:
        """What it has written since it was started."""
        return self._output.read_text()

    def kill(self) -> None:
        """SIGKILL, whatever state it is in. Its address is free afterwards."""
        self._process.kill()
        self._process.join()

    async def terminate(self) -> None:
        """SIGTERM, and waits until it has ended what it was at."""
        self._process.terminate()
        await asyncio.to_thread(self._process.join)

    def freeze(self) -> None:
        """SIGSTOP: its connections stay and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


class Cluster:
    """The three services over a pair of tiny random models, which draft and agree as trained ones do.

    Everybody goes to a service through its door.
    """

    def __init__(self, folder: Path, database: Database | None = None) -> None:
        """The ledger is in the database, where there is one, or else in a file."""
        self._folder = folder
        self._database = database
        self.services: dict[str, Any] = {}

    @property
    def address(self) -> str:
        """Where clients go."""
        return self.services["session"].door.name

    @property
    def complaints(self) -> int:
        """How often the session service has said that the target failed."""
        return self.services["session"].said.count("; it rests for")

    async def __aenter__(self) -> Cluster:
        folder = self._folder
        target, draft = save_model(folder / "models/target"), folder / "models/draft"
        save_model(draft, change=blur)
        await self._start("target", f"--model={target}", *ENGINE)
        await self._start("draft", f"--model={draft}", *ENGINE)
        models = [f"--{name}={service.door.name}" for name, service in self.services.items()]
        ledger = f"{folder}/ledger.db" if self._database is None else self._database.url
        await self._start("session", *models, f"--ledger={ledger}")
        for service in self.services.values():
            await service.until_ready()
        if self._database is not None:
            self.services[DATABASE] = self._database
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in SERVICES:
            self.services[name].kill()
            await self.services[name].door.close()

    async def _start(self, name: str, *arguments: str) -> None:
        service = self.services[name] = Service(name, arguments, self._folder)
        await service.door.open()
        service.start()


def _free_port() -> int:
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
