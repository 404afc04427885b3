"""A scripted service on a free port, and clients that share no connection with other tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import grpc
import outrider
import pytest

from .fake_service import FakeSessionService, serve

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture
def service() -> FakeSessionService:
    return FakeSessionService()


@pytest.fixture
def server(service: FakeSessionService) -> Iterator[tuple[grpc.Server, str]]:
    running, address = serve(service)
    yield running, address
    running.stop(0).wait()


@pytest.fixture
def address(server: tuple[grpc.Server, str]) -> str:
    return server[1]


@pytest.fixture
async def client(address: str) -> AsyncIterator[outrider.AsyncClient]:
    async with outrider.AsyncClient(address, channel_options=OWN_CONNECTION) as client:
        yield client


@pytest.fixture
async def impatient_client(address: str) -> AsyncIterator[outrider.AsyncClient]:
    """Gives a stream that breaks up after a fifth of a second."""
    async with outrider.AsyncClient(
        address, channel_options=OWN_CONNECTION, resume_ms=200
    ) as client:
        yield client


@pytest.fixture
def sync_client(address: str) -> Iterator[outrider.Client]:
    with outrider.Client(address, channel_options=OWN_CONNECTION) as client:
        yield client
