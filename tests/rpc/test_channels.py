"""The channels between processes: options that gRPC knows, and a stream on which nobody speaks for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from grpc._cython import cygrpc
from outrider._settings import channel_options
from outrider_server.rpc.channels import CLIENT_OPTIONS, SERVER_OPTIONS, open_channel

METHOD = "/outrider.tests/Listen"
PING_MS = 600
"""More often than a service's own, so that the test is short; servers allow it."""
SILENCE_SECONDS = 9 * PING_MS / 1000


@pytest.fixture
async def silent_service() -> AsyncIterator[str]:
    """A server whose one method says nothing until it is asked to; its address."""

    async def listen(requests: AsyncIterator[bytes], _: object) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    server = grpc.aio.server(options=SERVER_OPTIONS)
    listening = grpc.stream_stream_rpc_method_handler(listen)
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("outrider.tests", {"Listen": listening})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@pytest.mark.parametrize("options", [CLIENT_OPTIONS, SERVER_OPTIONS, channel_options(())])
def test_every_option_is_one_that_grpc_knows(options: list[tuple[str, object]]) -> None:
    library = Path(cygrpc.__file__).read_bytes()
    unknown = [name for name, _ in options if name.encode() + b"\0" not in library]
    assert not unknown, "gRPC takes any name, and does nothing"


async def test_a_stream_is_not_cut_off_because_nobody_speaks(
    silent_service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hasty = [*CLIENT_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    hasty = [(name, PING_MS if name == "grpc.keepalive_time_ms" else it) for name, it in hasty]
    monkeypatch.setattr("outrider_server.rpc.channels.CLIENT_OPTIONS", hasty)
    async with open_channel(silent_service) as channel:
        call = channel.stream_stream(METHOD)()
        await call.write(b"before")
        assert await call.read() == b"before"
        await asyncio.sleep(SILENCE_SECONDS)
        await call.write(b"after")
        assert await call.read() == b"after"
