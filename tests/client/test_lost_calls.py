"""A turn's stream goes on after losses, and knows which errors its own lost call may have caused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from outrider import _stream
from outrider.errors import StaleEpochError, TurnRunningError, UnavailableError
from outrider.types import Event, Summary
from outrider.v1 import session_pb2
from outrider_server.core.errors import StaleEpoch, TurnRunning
from outrider_server.rpc.errors import to_status

from .fake_service import started, summary, token

LOST = AioRpcError(StatusCode.UNAVAILABLE, Metadata(), Metadata(), "lost")


def refusal(error: Exception) -> AioRpcError:
    """The error as a service answers it."""
    status = to_status(error)
    code = next(code for code in StatusCode if code.value[0] == status.code)
    details = Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return AioRpcError(code, Metadata(), details, status.message)


class Call:
    """A call that answers from a script."""

    def __init__(self, script: Sequence[Any]) -> None:
        self._script = script

    async def __aiter__(self) -> AsyncIterator[session_pb2.GenerateEvent]:
        for entry in self._script:
            if isinstance(entry, Exception):
                raise entry
            yield entry

    def cancel(self) -> None:
        """Nothing runs."""


def stream(
    monkeypatch: pytest.MonkeyPatch, *scripts: Sequence[Any]
) -> tuple[_stream.TurnStream, list[int | None]]:
    """A stream whose calls answer from these scripts in turn, and the indices that it asks for."""
    monkeypatch.setattr(_stream, "FIRST_DELAY_SECONDS", 0.0)
    left, asked = list(scripts), []

    def start(index: int | None) -> Call:
        asked.append(index)
        return Call(left.pop(0))

    return _stream.TurnStream(start, _stream.Patience(3600)), asked


async def test_a_stream_lost_after_its_summary_is_whole(monkeypatch) -> None:
    turn, asked = stream(monkeypatch, [started(), token(0), summary(1), LOST])
    messages = [message async for message in turn]
    assert [type(message) for message in messages][1:] == [Event, Summary]
    assert asked == [None]


@pytest.mark.parametrize("code", [StatusCode.UNAVAILABLE, StatusCode.CANCELLED])
async def test_a_stream_that_another_ends_is_asked_for_again(monkeypatch, code) -> None:
    lost = AioRpcError(code, Metadata(), Metadata(), "")
    rest = [started(), token(1), summary(2)]
    turn, asked = stream(monkeypatch, [started(), token(0), lost], rest)
    assert len([message async for message in turn]) == 4
    assert asked == [None, 1]


@pytest.mark.parametrize("own", [TurnRunning("it runs"), StaleEpoch("it moved on", 2)])
async def test_what_a_lost_call_still_holds_up_is_waited_for(monkeypatch, own) -> None:
    whole = [started(), token(0), summary(1)]
    turn, asked = stream(monkeypatch, [LOST], [refusal(own)], whole)
    assert len([message async for message in turn]) == 3
    assert asked == [None, None, None]


@pytest.mark.parametrize(
    ("other", "raised"),
    [(TurnRunning("it runs"), TurnRunningError), (StaleEpoch("it moved on", 2), StaleEpochError)],
)
async def test_what_others_hold_up_is_told_at_once(monkeypatch, other, raised) -> None:
    turn, asked = stream(monkeypatch, [refusal(other)])
    with pytest.raises(raised):
        await anext(turn)
    assert asked == [None]
    turn, asked = stream(monkeypatch, [started(), LOST], [started(), token(0), refusal(other)])
    assert [type(await anext(turn)).__name__ for _ in range(2)] == ["Started", "Event"]
    with pytest.raises(raised):
        await anext(turn)
    assert asked == [None, 0]


async def test_a_stream_that_may_not_resume_says_that_it_was_lost(monkeypatch) -> None:
    turn, _ = stream(monkeypatch, [LOST])
    turn._patience = _stream.Patience(0.0)
    with pytest.raises(UnavailableError, match="lost"):
        await anext(turn)
