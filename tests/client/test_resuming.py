"""The stream of a turn that breaks is asked for again, from the first token that has not arrived."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import outrider
import pytest
from outrider._stream import Patience, TurnStream

from .fake_service import started, summary, token

LOST = outrider.UnavailableError("the connection was lost")
FULL = outrider.ExhaustedError("full", reason="EXHAUSTED", retry_after_ms=1)
RUNNING = outrider.TurnRunningError("the session runs a turn", reason="TURN_RUNNING")


class Call:
    """A call that says these things; an error is raised."""

    def __init__(self, messages: Sequence[Any]) -> None:
        self._messages = messages

    async def __aiter__(self) -> AsyncIterator[Any]:
        for message in self._messages:
            if isinstance(message, outrider.OutriderError):
                raise message
            yield message

    def cancel(self) -> None:
        """Nothing is left to end."""


class Calls:
    """One script for each call; `asked` are the indexes that they were to begin at."""

    def __init__(self, *scripts: Sequence[Any]) -> None:
        self.asked: list[int | None] = []
        self._scripts = iter(scripts)

    def start(self, index: int | None) -> Call:
        self.asked.append(index)
        return Call(next(self._scripts))


async def indexes(calls: Calls, resume_seconds: float = 10.0) -> list[int]:
    """The indexes of the tokens of a whole turn."""
    stream = TurnStream(calls.start, Patience(resume_seconds))
    return [message.index async for message in stream if isinstance(message, outrider.Event)]


def not_started(message: Any) -> bool:
    return not isinstance(message, outrider.Started)


async def test_a_broken_stream_goes_on_at_the_first_token_that_is_missing() -> None:
    calls = Calls(
        [started(), token(0), token(1), LOST],
        [LOST],
        [started(), LOST],
        [started(), token(2), summary(3)],
    )
    assert await indexes(calls) == [0, 1, 2]
    assert calls.asked == [None, 2, 2, 2]


async def test_a_turn_that_starts_and_brings_no_token_is_given_up_in_time() -> None:
    """As where the service can read its ledger, and not write it."""

    def start(index: int | None) -> Call:
        asked.append(index)
        return Call([started(), LOST])

    asked: list[int | None] = []
    began = time.monotonic()
    with pytest.raises(outrider.StreamBrokenError, match="connection was lost"):
        await anext(
            message async for message in TurnStream(start, Patience(0.5)) if not_started(message)
        )
    assert len(asked) > 2
    assert time.monotonic() - began < 60, "patience does not begin anew with each start"


async def test_an_attempt_that_hangs_before_it_starts_ends_with_the_patience() -> None:
    async def hang() -> AsyncIterator[Any]:
        await asyncio.sleep(3600)
        yield

    class Hanging(Call):
        def __aiter__(self) -> AsyncIterator[Any]:
            return hang()

    calls = iter([Call([started(), token(0), LOST]), Hanging([])])
    news = (
        message
        async for message in TurnStream(lambda _: next(calls), Patience(0.5))
        if not_started(message)
    )
    assert (await anext(news)).index == 0
    with pytest.raises(outrider.StreamBrokenError, match="connection was lost"):
        await anext(news)


async def test_a_turn_that_was_lost_before_it_started_is_asked_for_again() -> None:
    calls = Calls([LOST], [LOST], [started(), token(0), summary(1)])
    assert await indexes(calls) == [0]
    assert calls.asked == [None, None, None]


async def test_a_turn_whose_first_call_still_runs_on_the_service_is_waited_for() -> None:
    calls = Calls([LOST], [RUNNING], [RUNNING], [started(), token(0), summary(1)])
    assert await indexes(calls) == [0]
    assert calls.asked == [None] * 4


@pytest.mark.parametrize("refusal", [RUNNING, FULL])
async def test_a_turn_that_is_refused_at_once_is_not_asked_for_again(refusal) -> None:
    calls = Calls([refusal])
    with pytest.raises(type(refusal)):
        await indexes(calls)
    assert calls.asked == [None]


async def test_a_service_that_is_full_when_a_turn_is_resumed_is_asked_again() -> None:
    calls = Calls([started(), token(0), LOST], [FULL], [started(), token(1), summary(2)])
    assert await indexes(calls) == [0, 1]


@pytest.mark.parametrize("index", [0, 2])
async def test_a_token_that_was_told_already_or_skipped_breaks_the_stream(index) -> None:
    calls = Calls([started(), token(0), LOST], [started(), token(index), summary(index + 1)])
    with pytest.raises(outrider.StreamBrokenError, match=f"token {index} came where 1 was due"):
        await indexes(calls)


async def test_what_was_lost_is_raised_when_patience_ends() -> None:
    calls = Calls([started(), token(0), LOST])
    with pytest.raises(outrider.StreamBrokenError, match="the connection was lost"):
        await indexes(calls, resume_seconds=0.0)
    assert calls.asked == [None]


async def test_a_service_that_cannot_resume_gives_what_was_lost() -> None:
    calls = Calls([started(), token(0), LOST], [outrider.UnimplementedError("no Attach")])
    with pytest.raises(outrider.UnavailableError, match="the connection was lost"):
        await indexes(calls)
