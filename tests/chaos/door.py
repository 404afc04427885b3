"""A door before a service: a TCP proxy that can break connections, or let nothing through without a word.

Owns the connections of those who come to the service. Behind a shut door nothing arrives, nothing leaves and
nothing is closed, as behind a network that has gone away; both ends have to find out by themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct

PIECE_BYTES = 1 << 16
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing resets the connection."""


class Door:
    """Listens before `address` from `open` on; `name` is where callers go."""

    def __init__(self, address: str) -> None:
        self.name = ""
        self._address = address
        self._passable = asyncio.Event()
        self._passable.set()
        self._visits: set[asyncio.Task[None]] = set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Begins to listen."""
        self._server = await asyncio.start_server(self._enter, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.name = f"{host}:{port}"

    def shut(self) -> None:
        """Lets nothing through from now on."""
        self._passable.clear()

    def unlock(self) -> None:
        """Lets through what has come meanwhile, and all that follows."""
        self._passable.set()

    def break_connections(self) -> None:
        """Resets every connection; new ones are welcome."""
        for end in self._ends:
            end.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            end.transport.abort()

    async def close(self) -> None:
        """Ends all connections and listens no more."""
        assert self._server is not None, "the door was opened"
        self._server.close()
        await asyncio.sleep(0)  # who has been let in has begun
        for visit in list(self._visits):
            visit.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = asyncio.current_task()
        assert visit is not None
        self._visits.add(visit)
        self._ends.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._passable.wait()
                await self._lead_through(reader, writer)
        finally:
            self._visits.discard(visit)
            self._ends.discard(writer)
            writer.close()

    async def _lead_through(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, _, port = self._address.rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        self._ends.add(far_writer)
        ways = [
            asyncio.create_task(self._carry(reader, far_writer)),
            asyncio.create_task(self._carry(far_reader, writer)),
        ]
        try:
            # Half of a connection is of no use to gRPC.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._ends.discard(far_writer)
            far_writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(PIECE_BYTES):
            await self._passable.wait()
            writer.write(data)
            await writer.drain()
        await self._passable.wait()
