"""The delaying proxy: everything arrives, in order, both ways, and late by half the round trip each way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from outrider_bench.proxy import delaying_proxy

ROUND_TRIP_MS = 50.0


class Waits:
    """Stands for sleeping: notes how long it was to be and lets others run once."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def echo_server() -> AsyncIterator[str]:
    """Answers every line with the same line, and the end of input with a last word; ends after all."""
    conversations: list[asyncio.Task[None]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError):
            async for line in reader:
                writer.write(line)
            writer.write(b"end\n")
            await writer.drain()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        conversations.append(asyncio.create_task(answer(reader, writer)))

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()[:2]
        yield f"{host}:{port}"
    await asyncio.gather(*conversations)


async def connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = address.split(":")
    return await asyncio.open_connection(host, int(port))


async def test_lines_come_back_in_order() -> None:
    lines = [f"line {index} {'x' * (index % 97)}\n".encode() for index in range(2000)]
    async with echo_server() as address, delaying_proxy(address, ROUND_TRIP_MS, Waits()) as proxy:
        reader, writer = await connect(proxy)
        writer.writelines(lines)
        await writer.drain()
        assert [await reader.readline() for _ in lines] == lines
        writer.close()


async def test_each_direction_waits_half_the_round_trip() -> None:
    """One line there and back is one piece each way, held for at most what is left of 25 ms since it came."""
    waits = Waits()
    async with echo_server() as address, delaying_proxy(address, ROUND_TRIP_MS, waits) as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        assert len(waits.seconds) == 2
        assert all(0 < seconds <= ROUND_TRIP_MS / 2000 for seconds in waits.seconds)
        writer.close()


async def test_no_round_trip_means_no_wait() -> None:
    waits = Waits()
    async with echo_server() as address, delaying_proxy(address, 0, waits) as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        assert waits.seconds == []
        writer.close()


async def test_the_end_of_one_direction_leaves_the_other_open() -> None:
    async with echo_server() as address, delaying_proxy(address, ROUND_TRIP_MS, Waits()) as proxy:
        reader, writer = await connect(proxy)
        writer.write(b"last\n")
        writer.write_eof()
        assert await reader.read() == b"last\nend\n"
        writer.close()


async def test_connections_do_not_mix() -> None:
    async with echo_server() as address, delaying_proxy(address, ROUND_TRIP_MS, Waits()) as proxy:
        pairs = [await connect(proxy) for _ in range(8)]
        for index, (_, writer) in enumerate(pairs):
            writer.write(f"{index}\n".encode())
        answers = [await reader.readline() for reader, _ in pairs]
        assert answers == [f"{index}\n".encode() for index in range(8)]
        for _, writer in pairs:
            writer.close()


async def test_connections_that_are_open_at_the_end_are_closed_quietly() -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    async with echo_server() as address:
        async with delaying_proxy(address, ROUND_TRIP_MS, Waits()) as proxy:
            reader, writer = await connect(proxy)
            writer.write(b"hello\n")
            assert await reader.readline() == b"hello\n"
        assert await reader.read() == b""
        writer.close()
    assert problems == []


async def test_nothing_listens_after_the_end() -> None:
    async with echo_server() as address:
        async with delaying_proxy(address, ROUND_TRIP_MS, Waits()) as proxy:
            pass
        with pytest.raises(OSError, match="Connect call failed"):
            await connect(proxy)
