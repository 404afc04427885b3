"""One stream to the target for all turns of this process: joins what they say, hands out what is answered.

Owns the numbers of turns on the wire. Knows nothing of what the messages mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Self

import grpc
from outrider.v1 import target_pb2

from ...core.errors import InternalError, OutriderError, ProtocolViolation, Unavailable
from ...rpc import telemetry
from ...rpc.errors import from_rpc_error, from_status

PEER = "target"

TurnsCall = grpc.aio.StreamStreamCall[target_pb2.VerifyTurnsRequest, target_pb2.VerifyTurnsResponse]


log = logging.getLogger("outrider.session")


class TurnSuspended(Unavailable):
    """The turn gave its slot up while its reader stood still; it can be opened anew. Stays here."""


class TargetStream:
    """The stream, once it is started. Once it is `over` it takes no turn any more; open another then."""

    def __init__(self, call: TurnsCall) -> None:
        self.over = False
        self._call = call
        self._lines: dict[int, TurnLine] = {}
        self._next_turn = 0
        self._outbox: list[target_pb2.TurnLineRequest] = []
        self._news = asyncio.Event()
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    def start(self) -> Self:
        """Begins to read and to write."""
        self._tasks = asyncio.create_task(self._read()), asyncio.create_task(self._write())
        return self

    @property
    def turns(self) -> int:
        """Turns that have a line."""
        return len(self._lines)

    def open_line(self) -> TurnLine:
        """A line for one turn."""
        line = TurnLine(self, self._next_turn)
        self._lines[self._next_turn] = line
        self._next_turn += 1
        return line

    def say(self, request: target_pb2.TurnLineRequest) -> None:
        """Sends a message, with whatever else is said before the next one leaves."""
        self._outbox.append(request)
        self._news.set()

    def forget(self, turn: int) -> bool:
        """Hands out no more answers to a turn; False where it had a line no more."""
        return self._lines.pop(turn, None) is not None

    def close(self) -> None:
        """Ends the stream and every turn on it."""
        self._call.cancel()

    async def _write(self) -> None:
        # Writing to a stream that has ended fails without its status; reading tells it.
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            while True:
                await self._news.wait()
                self._news.clear()
                said, self._outbox = self._outbox, []
                await self._call.write(target_pb2.VerifyTurnsRequest(turns=said))

    async def _read(self) -> None:
        error: OutriderError = Unavailable("the target service ended the stream")
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                if not isinstance(message, target_pb2.VerifyTurnsResponse):
                    raise ProtocolViolation("the target sent something else than answers")
                for answer in message.turns:
                    line = self._lines.get(answer.turn)
                    if line is not None:
                        line.deliver(answer)
        except grpc.RpcError as failure:
            error = from_rpc_error(failure, PEER)
        except OutriderError as failure:
            error = failure
        except Exception:
            log.exception("reading what a target answers failed")
            error = InternalError("the session service failed; its log says why")
        finally:
            self.over = True
            _, writing = self._tasks
            writing.cancel()
            self._call.cancel()
            for line in list(self._lines.values()):
                line.fail(error)


class TurnLine:
    """One turn's end of the stream: one message out, one answer in."""

    def __init__(self, stream: TargetStream, turn: int) -> None:
        self._stream = stream
        self._turn = turn
        self._trace = dict(telemetry.outgoing_metadata())
        self._answer: asyncio.Future[target_pb2.VerifyResponse] | None = None
        self._error: OutriderError | None = None

    def ask(self, request: target_pb2.VerifyRequest) -> asyncio.Future[target_pb2.VerifyResponse]:
        """Sends a message at once; the answer may be awaited later. It raises OutriderError."""
        answer: asyncio.Future[target_pb2.VerifyResponse] = (
            asyncio.get_running_loop().create_future()
        )
        self._answer = answer
        if self._error is not None:
            answer.set_exception(self._error)
        else:
            self._stream.say(
                target_pb2.TurnLineRequest(turn=self._turn, request=request, trace=self._trace)
            )
            self._trace = {}
        return answer

    def deliver(self, answer: target_pb2.TurnLineResponse) -> None:
        """Takes what the target answered. An answer that nobody asked for is dropped."""
        if answer.WhichOneof("message") == "failure":
            self.fail(from_status(answer.failure, PEER))
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(answer.response)

    def fail(self, error: OutriderError) -> None:
        """Nothing comes any more; whoever waits, or asks later, gets the error."""
        self._error = self._error or error
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def suspend(self) -> None:
        """Ends the line of a turn that goes on later: whoever waits, or asks later, gets TurnSuspended."""
        if self._stream.forget(self._turn) and self._error is None:
            self.fail(TurnSuspended("the turn's reader stood still"))
            self._stream.say(
                target_pb2.TurnLineRequest(turn=self._turn, end=target_pb2.TurnLineEnd())
            )

    def close(self) -> None:
        """Ends the turn on the target, whatever it does; its KV stays. A second time does nothing."""
        if not self._stream.forget(self._turn):
            return
        if self._answer is not None:
            self._answer.cancel()
        if self._error is None:
            self._stream.say(
                target_pb2.TurnLineRequest(turn=self._turn, end=target_pb2.TurnLineEnd())
            )
