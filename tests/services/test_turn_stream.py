"""Many turns on one stream to the target: each as if it had it for itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from google.rpc import status_pb2
from opentelemetry.context import Context
from outrider.v1 import target_pb2, target_pb2_grpc
from outrider_server.core.errors import InvalidRequest, ProtocolViolation, StaleEpoch, Unavailable
from outrider_server.rpc.errors import from_status
from outrider_server.session.peers.target_stream import TargetStream
from outrider_server.target.turns import TurnStream

from .one_turn import answers, opening, step


@pytest.fixture
async def stub(service, stack) -> AsyncIterator[target_pb2_grpc.TargetServiceStub]:
    async with grpc.aio.insecure_channel(stack.target) as channel:
        yield target_pb2_grpc.TargetServiceStub(channel)


@pytest.fixture
async def stream(stub) -> AsyncIterator[TargetStream]:
    stream = TargetStream(stub.VerifyTurns()).start()
    yield stream
    stream.close()


def said(turn: int, request: target_pb2.VerifyRequest) -> target_pb2.TurnLineRequest:
    return target_pb2.TurnLineRequest(turn=turn, request=request)


def timeless(response: target_pb2.VerifyResponse) -> target_pb2.VerifyResponse:
    """The response without the times of its step."""
    for name in ("step_us", "prefill_us"):
        response.verdict.ClearField(name)
    return response


async def released(stub: target_pb2_grpc.TargetServiceStub, session_id: str) -> None:
    """Returns once the session is not open any more, which its target hears a moment later."""
    release = target_pb2.ReleaseRequest(session_id=session_id, epoch=1)
    while True:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stub.Release(release)
            return


async def test_turns_on_one_stream_are_answered_as_on_streams_of_their_own(stub, stream):
    alone = [
        [timeless(one) for one in await answers(stub, opening(f"own {i}"), step(0, [i, 2, 3], [4]))]
        for i in range(4)
    ]
    lines = [stream.open_line() for _ in range(4)]
    opened = await asyncio.gather(*(line.ask(opening(f"one {i}")) for i, line in enumerate(lines)))
    steps = [line.ask(step(0, [i, 2, 3], [4])) for i, line in enumerate(lines)]
    verdicts = await asyncio.gather(*steps)
    assert [[timeless(a), timeless(b)] for a, b in zip(opened, verdicts, strict=True)] == [
        [timeless(a), b] for a, b in alone
    ]


async def test_a_turn_that_fails_fails_alone(stub, stream):
    await answers(stub, opening("newer", 6))
    good, bad, old = (stream.open_line() for _ in range(3))
    await good.ask(opening("good"))
    with pytest.raises(InvalidRequest, match="the first message of a turn must be open"):
        await bad.ask(step(0, [1]))
    with pytest.raises(StaleEpoch) as stale:
        await old.ask(opening("newer", 5))
    assert stale.value.current_epoch == 6
    with pytest.raises(InvalidRequest):
        await bad.ask(step(0, [1]))
    assert len((await good.ask(step(0, [1, 2]))).verdict.tokens) == 1


async def test_a_turn_that_is_closed_frees_its_slot_and_not_the_others(stub, stream):
    first, second = stream.open_line(), stream.open_line()
    await first.ask(opening("closed"))
    await second.ask(opening("kept"))
    release = target_pb2.ReleaseRequest(session_id="closed", epoch=1)
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Release(release)
    first.close()
    await released(stub, "closed")
    assert (await second.ask(step(0, [1]))).verdict.tokens


async def test_the_end_of_the_stream_fails_every_turn_and_frees_their_slots(stub, stream):
    lines = [stream.open_line() for _ in range(2)]
    for index, line in enumerate(lines):
        await line.ask(opening(f"lost {index}"))
    asked = [line.ask(step(0, [1] * 60)) for line in lines]
    stream.close()
    for waiting, line in zip(asked, lines, strict=True):
        with pytest.raises((Unavailable, ProtocolViolation)):
            await waiting
        with pytest.raises((Unavailable, ProtocolViolation)):
            await line.ask(step(0, [1]))
    assert stream.over
    for index in range(2):
        await released(stub, f"lost {index}")


class Echo:
    """Turns that answer each message with its start position, when they are let."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.ended: list[int] = []

    async def serve(
        self, requests: AsyncIterator[target_pb2.VerifyRequest], _: Context
    ) -> AsyncIterator[target_pb2.VerifyResponse]:
        first = None
        try:
            async for request in requests:
                first = request.step.start_position if first is None else first
                await self.go.wait()
                if request.step.start_position < 0:
                    raise RuntimeError("a secret")
                verdict = target_pb2.Verdict(start_position=request.step.start_position)
                yield target_pb2.VerifyResponse(verdict=verdict)
        finally:
            self.ended.append(first)


class Wire:
    """A stream of requests that a test writes one by one."""

    def __init__(self, echo: Echo, closing: asyncio.Event) -> None:
        self._messages: asyncio.Queue[target_pb2.VerifyTurnsRequest | None] = asyncio.Queue()
        self.answers = TurnStream(echo.serve, closing).run(self._requests())

    def write(self, *turns: target_pb2.TurnLineRequest) -> None:
        self._messages.put_nowait(target_pb2.VerifyTurnsRequest(turns=turns))

    def end(self) -> None:
        self._messages.put_nowait(None)

    async def _requests(self) -> AsyncIterator[target_pb2.VerifyTurnsRequest]:
        while (message := await self._messages.get()) is not None:
            yield message


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def positions(message: target_pb2.VerifyTurnsResponse) -> list[tuple[int, int]]:
    return [(one.turn, one.response.verdict.start_position) for one in message.turns]


async def test_answers_that_are_ready_together_travel_together():
    echo = Echo()
    wire = Wire(echo, asyncio.Event())
    wire.write(*(said(turn, step(10 + turn, [1])) for turn in range(5)))
    reading = asyncio.ensure_future(anext(wire.answers))
    await settled()
    echo.go.set()
    assert sorted(positions(await reading)) == [(turn, 10 + turn) for turn in range(5)]
    wire.end()
    assert [one async for one in wire.answers] == []
    assert sorted(echo.ended) == [10, 11, 12, 13, 14]


async def test_a_failure_is_a_status_without_a_word_of_the_exception(caplog):
    echo = Echo()
    echo.go.set()
    wire = Wire(echo, asyncio.Event())
    wire.write(said(7, step(-1, [1])))
    ((failed,),) = [(await anext(wire.answers)).turns]
    assert failed.turn == 7
    assert b"secret" not in failed.SerializeToString()
    assert "the service failed" in str(from_status(failed.failure, "target"))
    assert "a turn failed" in caplog.text
    wire.write(said(7, step(1, [1])), said(8, step(3, [1])))
    assert positions(await anext(wire.answers)) == [(8, 3)], "a turn that has failed says no more"
    await wire.answers.aclose()


async def test_a_stream_that_is_to_close_takes_no_turn_and_ends_with_its_last():
    echo, closing = Echo(), asyncio.Event()
    wire = Wire(echo, closing)
    wire.write(said(0, step(5, [1])))
    reading = asyncio.ensure_future(anext(wire.answers))
    await settled()
    closing.set()
    wire.write(said(1, step(6, [1])))
    (refused,) = (await reading).turns
    assert refused.turn == 1
    assert isinstance(from_status(refused.failure, "target"), Unavailable)
    echo.go.set()
    assert positions(await anext(wire.answers)) == [(0, 5)], "the running turn goes on"
    wire.write(target_pb2.TurnLineRequest(turn=0, end=target_pb2.TurnLineEnd()))
    assert [one async for one in wire.answers] == []
    assert echo.ended == [5]


def test_a_status_without_a_reason_is_a_violation():
    assert isinstance(from_status(status_pb2.Status(), "target"), ProtocolViolation)
    unknown = status_pb2.Status(code=5, message="no")
    assert "status 5" in str(from_status(unknown, "target"))


async def test_an_answer_that_is_none_fails_the_turns_of_its_stream():
    """A status that cannot be read among them."""

    async def junk(_requests: object, _context: object) -> AsyncIterator[bytes]:
        yield target_pb2.VerifyTurnsResponse().SerializeToString()
        yield b"\x0a\x06\x08\x00\x1a\x02\xff\xff"
        await asyncio.Event().wait()

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [
            grpc.method_handlers_generic_handler(
                "outrider.v1.TargetService",
                {"VerifyTurns": grpc.stream_stream_rpc_method_handler(junk)},
            )
        ]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = TargetStream(target_pb2_grpc.TargetServiceStub(channel).VerifyTurns()).start()
        with pytest.raises(ProtocolViolation, match="something else than answers"):
            await stream.open_line().ask(opening("junk"))
        assert stream.over
    await server.stop(None)
