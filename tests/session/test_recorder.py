"""What the decode loop writes: rounds joined to one append, every token of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from outrider_server.session.recorder import LedgerRecorder
from outrider_server.speculation.types import Round, TokenLogprobs, TokenSource

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


async def test_a_round_that_lacks_logprobs_writes_nothing_instead_of_fewer_tokens() -> None:
    recorder, writes = recorder_and_writes()
    with pytest.raises(ValueError, match="shorter"):
        await recorder.record([a_round(5), a_round(7, (TokenLogprobs(-0.5),))])
    assert writes == []
