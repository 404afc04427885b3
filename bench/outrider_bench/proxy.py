"""A TCP proxy that delays: a network of a given round trip between two services, on one machine.

Each direction holds every piece of data back for half the round trip, in order, and limits no bandwidth.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

PIECE_BYTES = 1 << 16

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Piece:
    """Data and the time on the loop's clock, in seconds, at which it may go on; no data ends the stream."""

    due: float
    data: bytes


@asynccontextmanager
async def delaying_proxy(
    address: str, round_trip_ms: float, sleep: Sleep = asyncio.sleep
) -> AsyncIterator[str]:
    """Yields HOST:PORT of a proxy before `address`."""
    host, _, port = address.rpartition(":")
    one_way = round_trip_ms / 2000
    connections: set[asyncio.Task[None]] = set()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                far_reader, far_writer = await asyncio.open_connection(host, int(port))
                try:
                    await asyncio.gather(
                        _carry(reader, far_writer, one_way, sleep),
                        _carry(far_reader, writer, one_way, sleep),
                    )
                finally:
                    far_writer.close()
        finally:
            connections.discard(task)
            writer.close()

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    try:
        near_host, near_port = server.sockets[0].getsockname()[:2]
        yield f"{near_host}:{near_port}"
    finally:
        server.close()
        await asyncio.sleep(0)  # who has been let in has begun
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float, sleep: Sleep
) -> None:
    """Forwards one direction until it ends, each piece `delay` seconds after it came."""
    pieces: asyncio.Queue[Piece] = asyncio.Queue()
    reading = asyncio.create_task(_read(reader, pieces, delay))
    loop = asyncio.get_running_loop()
    try:
        while True:
            piece = await pieces.get()
            wait = piece.due - loop.time()
            if wait > 0:
                await sleep(wait)
            if not piece.data:
                writer.write_eof()
                break
            writer.write(piece.data)
            await writer.drain()
    finally:
        reading.cancel()


async def _read(reader: asyncio.StreamReader, pieces: asyncio.Queue[Piece], delay: float) -> None:
    loop = asyncio.get_running_loop()
    data = b"more"
    while data:
        try:
            data = await reader.read(PIECE_BYTES)
        except OSError:
            data = b""
        pieces.put_nowait(Piece(loop.time() + delay, data))
