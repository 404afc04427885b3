"""What the decode loop writes: rounds joined to one append, every token of them."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from outrider_server.core.errors import LedgerUnavailable, PositionMismatch, StaleEpoch
from outrider_server.core.types import Round, TokenLogprobs, TokenSource
from outrider_server.session.ledger import patience
from outrider_server.session.ledger.recorder import LedgerRecorder

SOURCES = (TokenSource.DRAFT, TokenSource.TARGET)


def a_round(start: int, logprobs: tuple[TokenLogprobs, ...] = ()) -> Round:
    return Round(start, (start, start + 1), ("", ""), SOURCES, logprobs, 1, 1, 1)


def recorder_and_writes() -> tuple[LedgerRecorder, list[tuple[Any, ...]]]:
    writes: list[tuple[Any, ...]] = []

    async def append(*arguments: Any) -> None:
        writes.append(arguments)

    ledger: Any = SimpleNamespace(append=append)
    return LedgerRecorder(ledger, "s", 3), writes


async def test_rounds_are_appended_together_in_order() -> None:
    recorder, writes = recorder_and_writes()
    await recorder.record([a_round(5), a_round(7)])
    ((session_id, epoch, start_position, tokens),) = writes
    assert (session_id, epoch, start_position) == ("s", 3, 5)
    assert [entry.token for entry in tokens] == [5, 6, 7, 8]
    assert [entry.source for entry in tokens] == [*SOURCES, *SOURCES]


AWAY = LedgerUnavailable("away", is_away=True)


@pytest.mark.parametrize("stood", [True, False], ids=["answer lost", "never written"])
async def test_a_ledger_that_is_back_in_a_moment_costs_nothing(stood: bool) -> None:
    """Whether a write before stands whose answer was lost, or not."""
    answers = [AWAY, AWAY, PositionMismatch("it has 7", 7) if stood else None]
    asked: list[tuple[Any, ...]] = []

    async def append(*arguments: Any) -> None:
        asked.append(arguments)
        if (answer := answers.pop(0)) is not None:
            raise answer

    ledger: Any = SimpleNamespace(append=append)
    await LedgerRecorder(ledger, "s", 3).record([a_round(5)])
    assert len(asked) == 3
    assert asked[0] == asked[1] == asked[2]


@pytest.mark.parametrize(
    "answers",
    [
        [PositionMismatch("it has 7", 7)],
        [AWAY, PositionMismatch("it has 9", 9)],
        [LedgerUnavailable("full")],
        [StaleEpoch("taken over", 4)],
    ],
    ids=["nothing was sent before", "somebody else's", "a full disk stays full", "taken over"],
)
async def test_what_time_does_not_mend_is_told_at_once(answers: list[Exception]) -> None:
    last = answers[-1]

    async def append(*_: Any) -> None:
        raise answers.pop(0)

    ledger: Any = SimpleNamespace(append=append)
    with pytest.raises(type(last)) as told:
        await LedgerRecorder(ledger, "s", 3).record([a_round(5)])
    assert told.value is last
    assert not answers


@pytest.mark.parametrize("hangs", [True, False])
async def test_a_ledger_that_stays_away_is_waited_for_no_longer_than_it_is_said(
    hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LEDGER_SECONDS", 0.3)
    asked = 0

    async def append(*_: Any) -> None:
        nonlocal asked
        asked += 1
        if hangs and asked == 2:
            await asyncio.sleep(3600)
        raise AWAY

    ledger: Any = SimpleNamespace(append=append)
    began = time.monotonic()
    with pytest.raises(LedgerUnavailable) as told:
        await LedgerRecorder(ledger, "s", 3).record([a_round(5)])
    assert told.value is AWAY
    assert asked >= 2
    assert time.monotonic() - began < 60, "not for an hour"


async def test_a_round_that_lacks_logprobs_writes_nothing_instead_of_fewer_tokens() -> None:
    recorder, writes = recorder_and_writes()
    with pytest.raises(ValueError, match="shorter"):
        await recorder.record([a_round(5), a_round(7, (TokenLogprobs(-0.5),))])
    assert writes == []
