"""One fuzzed call: its frames, how its caller behaves, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode
from outrider.v1 import target_pb2
from outrider_server.rpc.errors import WRITE_FAILED

from .methods import TURN_CODES, Method
from .spoiling import Spoiler

HANG_SECONDS = 60.0
"""Longer than any call of these sizes takes on a machine that is busy."""
MOST_ANSWERS = 200
ANYBODY = frozenset({StatusCode.OK, StatusCode.INVALID_ARGUMENT})
TOO_LARGE = "larger than max"
STREAMED = ("/VerifyTurns", "/Draft")
"""Methods that take many messages."""
ANSWER_MANY = (*STREAMED, "/Watch", "/Generate", "/Attach")
LOST = "status lost by the library"
"""What a caller knows whose write met the end of its stream."""


@dataclass(frozen=True)
class Plan:
    """What the caller does. `leave_after` answers it cancels; None it never does."""

    method: Method
    frames: tuple[bytes, ...]
    timeout: float | None
    leave_after: int | None
    closes: bool
    """Says that it has sent all; a caller that does not waits for answers first."""

    def __str__(self) -> str:
        frames = ", ".join(
            frame.hex() if len(frame) < 200 else f"{frame[:100].hex()}... ({len(frame)} bytes)"
            for frame in self.frames
        )
        return (
            f"{self.method.path} timeout={self.timeout} leave_after={self.leave_after}"
            f" closes={self.closes} frames=[{frames}]"
        )


@dataclass
class Tally:
    """How many calls of each method ended how."""

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)

    def table(self) -> str:
        """One line a method."""
        methods = sorted({method for method, _ in self.ends})
        lines = []
        for method in methods:
            codes = sorted((code, n) for (name, code), n in self.ends.items() if name == method)
            lines.append(f"{method}: " + ", ".join(f"{code} {count}" for code, count in codes))
        return "\n".join(lines)


def planned(draws: random.Random, method: Method, session: str) -> Plan:
    """A call, the same for the same random numbers."""
    messages = method.say(draws, session)
    spoiler = Spoiler(draws)
    if draws.random() < 0.75:
        for _ in range(draws.randrange(1, 4)):
            spoiler.spoil(draws.choice(messages))
    if draws.random() < 0.15:
        draws.shuffle(messages)
    if draws.random() < 0.1:
        messages.append(draws.choice(messages))
    if len(messages) > 1 and draws.random() < 0.1:
        del messages[draws.randrange(len(messages))]
    frames = tuple(map(spoiler.frame, messages))
    closes = not method.path.endswith(STREAMED) or draws.random() < 0.6
    timeout = draws.choice((None, None, None, None, 0.0, 0.001, 0.05))
    leaves = draws.random() < 0.2 or not closes or method.path.endswith("/Watch")
    return Plan(method, frames, timeout, draws.randrange(4) if leaves else None, closes)


async def perform(plan: Plan, channel: grpc.aio.Channel, tally: Tally) -> str:
    """Makes the call; returns what is wrong with its end, or nothing."""
    code, details, answers = await _made(plan, channel)
    tally.ends[plan.method.path, LOST if details == WRITE_FAILED else code.name] += 1
    wrong = _wrong(plan, code, details)
    if wrong or not plan.method.path.endswith("/VerifyTurns"):
        return wrong
    for failure in _failures(answers):
        tally.ends[f"{plan.method.path} turn", failure.name] += 1
        if failure not in ANYBODY | TURN_CODES:
            return f"a turn failed with {failure.name}"
    return ""


async def _made(plan: Plan, channel: grpc.aio.Channel) -> tuple[StatusCode, str, list[bytes]]:
    """Code and details that the call ended with, and its answers."""
    answers: list[bytes] = []
    ended = asyncio.Event()

    async def frames() -> AsyncIterator[bytes]:
        for frame in plan.frames:
            yield frame
        if not plan.closes:
            await ended.wait()

    path, timeout = f"/{plan.method.path}", plan.timeout
    call: Any
    if len(plan.frames) != 1 or path.endswith(STREAMED):
        call = channel.stream_stream(path)(frames(), timeout=timeout)
    elif path.endswith(ANSWER_MANY):
        call = channel.unary_stream(path)(plan.frames[0], timeout=timeout)
    else:
        call = channel.unary_unary(path)(plan.frames[0], timeout=timeout)
    try:
        async with asyncio.timeout(HANG_SECONDS):
            await _listen(plan, call, answers)
            if plan.leave_after is not None:
                call.cancel()
            return await call.code(), await call.details() or "", answers
    except TimeoutError:
        call.cancel()
        return StatusCode.UNKNOWN, "it hung", answers
    finally:
        ended.set()


async def _listen(plan: Plan, call: Any, answers: list[bytes]) -> None:
    most = MOST_ANSWERS if plan.leave_after is None else plan.leave_after
    # A caller that waits for an answer which cannot come leaves soon.
    limit = HANG_SECONDS if plan.leave_after is None else 0.2
    with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError, asyncio.CancelledError):
        async with asyncio.timeout(limit):
            if not hasattr(call, "__aiter__"):
                await call
                return
            async for answer in call:
                answers.append(answer)
                if len(answers) >= most:
                    return


def _wrong(plan: Plan, code: StatusCode, details: str) -> str:
    allowed = ANYBODY | plan.method.codes
    if plan.leave_after is not None:
        allowed |= {StatusCode.CANCELLED}
    if plan.timeout is not None:
        allowed |= {StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED}
    if details == WRITE_FAILED or (code is StatusCode.RESOURCE_EXHAUSTED and TOO_LARGE in details):
        return ""  # the library's own
    if code not in allowed:
        return f"ended with {code.name}: {details}"
    return ""


def _failures(answers: list[bytes]) -> list[StatusCode]:
    """The codes of turns that failed on a stream of many."""
    codes = {code.value[0]: code for code in StatusCode}
    turns: list[target_pb2.TurnLineResponse] = []
    for answer in answers:
        with contextlib.suppress(DecodeError):
            turns += target_pb2.VerifyTurnsResponse.FromString(answer).turns
    failures = [turn.failure for turn in turns if turn.WhichOneof("message") == "failure"]
    return [codes[failure.code] for failure in failures]
