"""One turn of a target on a stream of its own: what a caller may say in it, and what it is answered."""

from __future__ import annotations

import grpc
import pytest
from google.rpc import status_pb2
from outrider.v1 import target_pb2, target_pb2_grpc, types_pb2

from .wire import Refusal, read_refusal

GREEDY = types_pb2.SamplingParams(temperature=0.0)


def opening(session_id: str, epoch: int = 1, **fields) -> target_pb2.VerifyRequest:
    message = target_pb2.VerifyOpen(session_id=session_id, epoch=epoch, sampling=GREEDY, **fields)
    return target_pb2.VerifyRequest(open=message)


def step(
    start: int, context: list[int], proposed: list[int] = (), survival: list[float] = ()
) -> target_pb2.VerifyRequest:
    message = target_pb2.VerifyStep(
        start_position=start,
        context_tokens=context,
        proposed_tokens=proposed,
        survival=survival,
    )
    return target_pb2.VerifyRequest(step=message)


class TurnFailed(Exception):
    """The turn has ended with a status."""

    def __init__(self, status: status_pb2.Status) -> None:
        super().__init__(status.message)
        self.status = status


class OneTurn:
    """The turn. It begins with the first message."""

    def __init__(self, stub: target_pb2_grpc.TargetServiceStub) -> None:
        self._call = stub.VerifyTurns()

    async def say(self, request: target_pb2.VerifyRequest) -> None:
        turn = target_pb2.TurnLineRequest(turn=1, request=request)
        await self._call.write(target_pb2.VerifyTurnsRequest(turns=[turn]))

    async def hear(self) -> list[target_pb2.VerifyResponse]:
        """The answers that come next. Raises TurnFailed."""
        message = await self._call.read()
        for answer in message.turns:
            assert answer.turn == 1
            if answer.HasField("failure"):
                raise TurnFailed(answer.failure)
        return [answer.response for answer in message.turns]

    async def ask(self, request: target_pb2.VerifyRequest) -> target_pb2.VerifyResponse:
        """The only answer that comes next. Raises TurnFailed."""
        await self.say(request)
        (answer,) = await self.hear()
        return answer

    async def leave(self) -> None:
        """Returns when the turn has ended there too."""
        await self._call.done_writing()
        assert await self._call.read() is grpc.aio.EOF


async def answers(
    stub: target_pb2_grpc.TargetServiceStub, *requests: target_pb2.VerifyRequest
) -> list[target_pb2.VerifyResponse]:
    """What a turn is answered that says all of this at once. Raises TurnFailed."""
    turn, heard = OneTurn(stub), []
    for request in requests:
        await turn.say(request)
    while len(heard) < len(requests):
        heard += await turn.hear()
    await turn.leave()
    return heard


async def refused_turn(
    stub: target_pb2_grpc.TargetServiceStub, *requests: target_pb2.VerifyRequest
) -> Refusal:
    """The failure of such a turn, which has to fail."""
    with pytest.raises(TurnFailed) as caught:
        await answers(stub, *requests)
    return read_refusal(caught.value.status)
