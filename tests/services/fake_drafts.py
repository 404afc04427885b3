"""Draft services that lie, stall, flood or fall over; each yields what it says instead of guesses."""

# ruff: noqa: N802 - gRPC names the methods of a servicer.

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
from outrider.v1 import draft_pb2, draft_pb2_grpc, target_pb2
from outrider_server.core.types import tokens_digest

Answers = Callable[[draft_pb2.DraftOpen], Iterator[draft_pb2.DraftResponse]]


class ScriptedDraft(draft_pb2_grpc.DraftServiceServicer):
    """Sends an answer for every message it hears, and at least `unasked` of them without hearing any.

    Remembers the metadata of its calls.
    """

    def __init__(self, answers: Answers, unasked: int = 1) -> None:
        self._answers = answers
        self._unasked = unasked
        self.metadata: list[dict[str, str]] = []

    async def Draft(self, requests: Any, context: Any) -> AsyncIterator[draft_pb2.DraftResponse]:
        self.metadata.append(dict(context.invocation_metadata()))
        opening = await anext(aiter(requests))
        answers = self._answers(opening.open)
        for answer in itertools.islice(answers, self._unasked):
            yield answer
        async for _ in requests:
            answer = next(answers, None)
            if answer is None:
                return
            yield answer

    async def DescribeModel(self, _: Any, __: Any) -> target_pb2.DescribeModelResponse:
        return target_pb2.DescribeModelResponse()


class WrongDraft(draft_pb2_grpc.DraftServiceServicer):
    """Follows every commit with the same guess, in every branch that the session may count by now."""

    def __init__(self, *guess: int) -> None:
        self._guess = guess

    async def Draft(self, requests: Any, _: Any) -> AsyncIterator[draft_pb2.DraftResponse]:
        await anext(aiter(requests))
        yield opened()
        heard = 0
        async for request in requests:
            end = request.commit.start_position + len(request.commit.tokens)
            heard += 1
            for branch in range(heard):
                yield proposal(branch, end, *self._guess)


class SilentDraft(draft_pb2_grpc.DraftServiceServicer):
    """Takes a turn and never says a word."""

    async def Draft(self, requests: Any, _: Any) -> AsyncIterator[draft_pb2.DraftResponse]:
        async for _ in requests:
            pass
        await asyncio.Event().wait()
        yield draft_pb2.DraftResponse()


class FallingDraft(draft_pb2_grpc.DraftServiceServicer):
    """Answers `open`, then fails with a status of its own."""

    async def Draft(self, requests: Any, context: Any) -> AsyncIterator[draft_pb2.DraftResponse]:
        yield opened()
        await anext(aiter(requests))
        await context.abort(grpc.StatusCode.DATA_LOSS, "a disk was lost")


def garbage_draft(server: grpc.aio.Server) -> None:
    """Registers a draft that sends bytes which are no message."""

    async def draft(requests: Any, _: Any) -> AsyncIterator[bytes]:
        await anext(aiter(requests))
        yield opened().SerializeToString()
        while True:
            yield b"\xff\xff\xff"
            await asyncio.sleep(0)

    handler = grpc.stream_stream_rpc_method_handler(draft)
    handlers = grpc.method_handlers_generic_handler("outrider.v1.DraftService", {"Draft": handler})
    server.add_generic_rpc_handlers((handlers,))


def opened(length: int = 0, digest: bytes | None = None) -> draft_pb2.DraftResponse:
    known = tokens_digest([]) if digest is None else digest
    return draft_pb2.DraftResponse(opened=draft_pb2.DraftOpened(length=length, digest=known))


def proposal(branch: int, start_position: int, *tokens: int) -> draft_pb2.DraftResponse:
    message = draft_pb2.Proposal(branch=branch, start_position=start_position, tokens=tokens)
    return draft_pb2.DraftResponse(proposal=message)


def wrong_positions(opening: draft_pb2.DraftOpen) -> Iterator[draft_pb2.DraftResponse]:
    yield opened()
    choice = random.Random(1)
    for _ in itertools.count():
        start = choice.choice([-(2**31), -opening.committed_length - 1, -1, 0, 10**6, 2**31 - 1])
        yield proposal(0, start, 5, 6, 7)


def wrong_branches(opening: draft_pb2.DraftOpen) -> Iterator[draft_pb2.DraftResponse]:
    yield opened()
    for branch in itertools.cycle([-1, 1, 2**31 - 1, -(2**31)]):
        yield proposal(branch, opening.committed_length, 5, 6, 7)


def flood(opening: draft_pb2.DraftOpen) -> Iterator[draft_pb2.DraftResponse]:
    yield opened()
    for count in itertools.count():
        yield proposal(0, opening.committed_length + 500 * count, *range(500))


def empty_proposals(opening: draft_pb2.DraftOpen) -> Iterator[draft_pb2.DraftResponse]:
    yield opened()
    while True:
        yield proposal(0, opening.committed_length)


def garbage_order(opening: draft_pb2.DraftOpen) -> Iterator[draft_pb2.DraftResponse]:
    yield proposal(0, opening.committed_length, 5)
    while True:
        yield opened(7)


def opened_again(opening: draft_pb2.DraftOpen) -> Iterator[draft_pb2.DraftResponse]:
    yield opened()
    while True:
        yield opened(3, b"junk")


def nothing_set(_: draft_pb2.DraftOpen) -> Iterator[draft_pb2.DraftResponse]:
    yield opened()
    while True:
        yield draft_pb2.DraftResponse()


def false_length(opening: draft_pb2.DraftOpen) -> Iterator[draft_pb2.DraftResponse]:
    yield opened(10**6, b"x" * 16)
    yield proposal(0, opening.committed_length, 5)


def early_end(_: draft_pb2.DraftOpen) -> Iterator[draft_pb2.DraftResponse]:
    yield opened()
