"""Many turns on one stream: takes their messages apart, and joins the answers that are ready together.

Knows turns by number only; what a turn does with its messages is an argument.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from opentelemetry.context import Context
from outrider.v1 import target_pb2

from ..core.errors import OutriderError, Unavailable
from ..rpc import telemetry
from ..rpc.errors import to_status

log = logging.getLogger("outrider.target")

Requests = AsyncIterator[target_pb2.VerifyRequest]
ServeTurn = Callable[[Requests, Context], AsyncGenerator[target_pb2.VerifyResponse, None]]


@dataclass(frozen=True, slots=True)
class _RunningTurn:
    requests: asyncio.Queue[target_pb2.VerifyRequest]
    task: asyncio.Task[None]


class TurnStream:
    """The turns of one stream. `closing` is set when no new turn is taken any more."""

    def __init__(self, serve: ServeTurn, closing: asyncio.Event) -> None:
        self._serve = serve
        self._closing = closing
        self._turns: dict[int, _RunningTurn] = {}
        self._last_turn = -1
        self._answers: list[target_pb2.TurnLineResponse] = []
        self._changed = asyncio.Event()

    async def run(
        self, requests: AsyncIterator[target_pb2.VerifyTurnsRequest]
    ) -> AsyncGenerator[target_pb2.VerifyTurnsResponse, None]:
        """Yields answers until the caller ends the stream, or `closing` is set and no turn is left.

        Raises what reading the requests raises. Turns that still run then are cancelled.
        """
        reading = asyncio.create_task(self._read(requests))
        closing = asyncio.create_task(self._closing.wait())
        for task in (reading, closing):
            task.add_done_callback(lambda _: self._changed.set())
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self._answers:
                    answers, self._answers = self._answers, []
                    yield target_pb2.VerifyTurnsResponse(turns=answers)
                if reading.done():
                    await reading
                    return
                if closing.done() and not self._turns and not self._answers:
                    return
        finally:
            tasks = [reading, closing, *(turn.task for turn in self._turns.values())]
            for unfinished in tasks:
                unfinished.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[target_pb2.VerifyTurnsRequest]) -> None:
        async for message in requests:
            for request in message.turns:
                self._take(request)

    def _take(self, request: target_pb2.TurnLineRequest) -> None:
        turn = self._turns.get(request.turn)
        if request.WhichOneof("message") == "end":
            if turn is not None:
                turn.task.cancel()
        elif turn is not None:
            turn.requests.put_nowait(request.request)
        elif request.turn > self._last_turn:
            self._last_turn = request.turn
            self._begin(request)

    def _begin(self, request: target_pb2.TurnLineRequest) -> None:
        if self._closing.is_set():
            self._fail(request.turn, Unavailable("the target is stopping; try again", 500))
            return
        requests: asyncio.Queue[target_pb2.VerifyRequest] = asyncio.Queue()
        requests.put_nowait(request.request)
        caller = telemetry.incoming_context(request.trace.items())
        task = asyncio.create_task(self._run_turn(request.turn, requests, caller))
        self._turns[request.turn] = _RunningTurn(requests, task)

    async def _run_turn(
        self, number: int, requests: asyncio.Queue[target_pb2.VerifyRequest], caller: Context
    ) -> None:
        try:
            async with aclosing(self._serve(_from_queue(requests), caller)) as responses:
                async for response in responses:
                    self._answer(target_pb2.TurnLineResponse(turn=number, response=response))
        except Exception as error:
            if not isinstance(error, OutriderError):
                log.exception("a turn failed")
            self._fail(number, error)
        finally:
            del self._turns[number]
            self._changed.set()

    def _fail(self, number: int, error: Exception) -> None:
        self._answer(target_pb2.TurnLineResponse(turn=number, failure=to_status(error)))

    def _answer(self, answer: target_pb2.TurnLineResponse) -> None:
        self._answers.append(answer)
        self._changed.set()


async def _from_queue(requests: asyncio.Queue[target_pb2.VerifyRequest]) -> Requests:
    while True:
        yield await requests.get()
