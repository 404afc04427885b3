"""A reader that pauses pauses the service, and one that is back gets all."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from outrider._bridge import READ_AHEAD, Bridge
from outrider.types import Event

from .fake_service import started, summary, token

KIBIBYTES = 1000


class Endless:
    """A stream without end, which counts what is asked of it."""

    def __init__(self) -> None:
        self.given = 0
        self.cancelled = ""

    async def __aiter__(self) -> AsyncIterator[Event]:
        while not self.cancelled:
            self.given += 1
            await asyncio.sleep(0)
            yield Event(self.given, 0, "", "target")

    def cancel(self, why: str) -> None:
        self.cancelled = why


async def settled() -> None:
    """Lets everything run that can."""
    for _ in range(10 * READ_AHEAD):
        await asyncio.sleep(0)


async def test_the_loop_is_so_many_messages_ahead_of_the_thread_and_no_more():
    stream: Any = Endless()
    bridge = Bridge(stream)
    forwarding = asyncio.ensure_future(bridge.forward())
    soon: Callable[[Callable[[], None]], None] = asyncio.get_running_loop().call_soon_threadsafe
    await settled()
    assert stream.given == READ_AHEAD
    taken = 0
    for pause in (1, 7, READ_AHEAD, 3 * READ_AHEAD):
        for _ in range(pause):
            event = await asyncio.to_thread(bridge.take, soon)
            taken += 1
            assert event.index == taken
        await settled()
        assert taken + READ_AHEAD // 2 <= stream.given <= taken + READ_AHEAD
    bridge.cancel("enough")
    await asyncio.wait_for(forwarding, 10)


@pytest.fixture
def impatient_threads() -> Iterator[None]:
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_that_begin_one_reply_begin_one_turn(impatient_threads, sync_client, service):
    service.script = [started(), token(0), summary(1)]
    session = sync_client.create_session()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            reply = session.generate("hi")
            readers = [threads.submit(reply.read) for _ in range(8)]
            assert all(reader.result(30) is reply for reader in readers)
            assert reply.tokens == [100]


def test_threads_that_read_one_reply_all_come_to_its_end(sync_client, service):
    service.script = [started(), *(token(i) for i in range(60)), summary(60)]
    reply = sync_client.create_session().generate("hi")
    with ThreadPoolExecutor() as threads:
        readers = [threads.submit(lambda: [event.index for event in reply]) for _ in range(4)]
        seen = [index for reader in readers for index in reader.result(10)]
    assert sorted(seen) == list(range(60))


def test_a_service_waits_for_a_sync_reader_that_pauses(sync_client, service):
    text = "x" * 1024
    turn = [started(), *(token(i, text) for i in range(KIBIBYTES)), summary(KIBIBYTES)]
    service.script = turn
    reply = sync_client.create_session().generate("hi")
    next(reply)
    for _ in range(300):  # time for the service to send all, if nothing held it
        sync_client.describe()
    assert service.sent < KIBIBYTES // 4
    assert len(reply.read().text) == 1024 * KIBIBYTES
