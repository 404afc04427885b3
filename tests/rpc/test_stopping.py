"""What signals ask of a service: to drain, then to end soon; and that both end what runs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import grpc
import pytest
from outrider.v1 import target_pb2, target_pb2_grpc
from outrider_server.stopping import Stop

from .service import ScriptedTarget, serving

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of before, whatever a test left."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def told(stop: Stop, *numbers: signal.Signals) -> tuple[bool, bool]:
    """Whether it is to drain, and to end soon, after these signals."""
    for number in numbers:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            await stop.asked.wait()
            while number in numbers[1:] and not stop.hurried.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0)
    return stop.asked.is_set(), stop.hurried.is_set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_asks_to_drain_from_the_moment_on_that_it_is_waited_for(
    number: signal.Signals,
) -> None:
    """A service may be told to stop in the moment in which it says that it is ready."""
    stop = Stop()
    assert await told(stop) == (False, False)
    assert await told(stop, number) == (True, False)


@pytest.mark.parametrize("number", [signal.SIGQUIT, signal.SIGHUP])
async def test_a_terminal_that_closes_asks_to_end_soon(number: signal.Signals) -> None:
    assert await told(Stop(), number) == (True, True)


async def test_under_nohup_a_terminal_may_close() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = Stop()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    assert await told(stop) == (False, False)


async def test_the_signal_after_the_last_one_that_is_waited_for_ends_the_process() -> None:
    await told(Stop(), signal.SIGTERM, signal.SIGINT)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        assert signal.getsignal(number) == signal.SIG_DFL


async def test_asked_again_a_server_cuts_off_what_it_waits_for() -> None:
    async with serving(ScriptedTarget()) as (server, channel):
        call = target_pb2_grpc.TargetServiceStub(channel).VerifyTurns()
        await call.write(target_pb2.VerifyTurnsRequest())
        await call.read()
        stop = Stop()
        ending = asyncio.create_task(stop.end(server.drain(300), server.cut_off))
        await told(stop, signal.SIGINT)
        await asyncio.sleep(0)
        assert not ending.done()
        await told(stop, signal.SIGINT)
        async with asyncio.timeout(60):
            await ending
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call.read()
