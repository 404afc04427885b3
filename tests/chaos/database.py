"""A PostgreSQL server behind a pgbouncer in transaction mode, as one more service that faults may hit."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pgbouncer import Pooler, running_pooler
from postgres_server import PostgresServer, running_server


class Database:
    """What faults are done to is the server; the pooler stays."""

    def __init__(self, server: PostgresServer, pooler: Pooler) -> None:
        self.url = pooler.url()
        self._server = server
        self._starting: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Starts the server; it is not ready yet."""
        self._starting = asyncio.ensure_future(asyncio.to_thread(self._server.start))

    async def until_ready(self) -> float:
        """The time when it was ready."""
        if self._starting is not None:
            await self._starting
        return time.monotonic()

    def kill(self) -> None:
        """SIGKILL, to all its processes."""
        self._server.kill()

    def freeze(self) -> None:
        """SIGSTOP, to all its processes."""
        self._server.freeze(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._server.freeze(signal.SIGCONT)


@contextmanager
def pooled_database() -> Iterator[Database]:
    """The server and its pooler, for as long as the context lasts."""
    with running_server() as server, running_pooler(server) as pooler:
        yield Database(server, pooler)
