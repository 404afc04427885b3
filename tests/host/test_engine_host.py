"""What the event loop asks of a host: steps, drafting, slots; and that each ends with nothing left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from models_for_tests import tiny_engine, tiny_limits
from outrider_server.core.errors import InvalidRequest, StaleEpoch, VocabularyMismatch
from outrider_server.core.types import Draw, SamplingParams, Step
from outrider_server.engine.engine import OpenedSlot
from outrider_server.host.draft_turn import DraftTask
from outrider_server.host.engine_host import EngineHost
from outrider_server.host.outbox import Guessed
from outrider_server.pacing.window import MAX_LEAD

PATIENCE_SECONDS = 60
PROMPT = (3, 1, 4, 1, 5)


def greedy(generated_from: int = len(PROMPT)) -> Draw:
    return Draw(SamplingParams(temperature=0.0), 1, generated_from)


@pytest.fixture
async def host() -> AsyncIterator[EngineHost]:
    started = await EngineHost.started(lambda: tiny_engine(limits=tiny_limits(width=8)))
    yield started
    await started.stop()


async def opened_slot(host: EngineHost, name: str, epoch: int = 1) -> OpenedSlot:
    return await host.open(name, epoch, len(PROMPT), greedy())


async def decided(host: EngineHost, count: int) -> list[int]:
    """The model's own greedy tokens after the prompt."""
    opened, tokens = await opened_slot(host, "decided"), list(PROMPT)
    start = 0
    for _ in range(count):
        verified = await host.verify(opened, Step(start, tuple(tokens[start:]), ()))
        start = len(tokens)
        tokens += verified.verdict.tokens
    host.close(opened)
    return tokens[len(PROMPT) :]


async def test_a_draft_guesses_what_the_model_decides_and_follows_what_was_decided_instead(
    host: EngineHost,
) -> None:
    wanted = await decided(host, 4)
    opened = await opened_slot(host, "drafted")
    turn = host.draft(opened, DraftTask(len(PROMPT), len(PROMPT), lead=4, burst=4))
    turn.commit(0, PROMPT)
    first = await turn.take()
    assert first is not None
    assert (first.branch, first.proposal.start_position) == (0, len(PROMPT))
    assert list(first.proposal.tokens) == wanted
    assert first.seconds > 0
    other = (wanted[0] + 1) % 7
    turn.commit(len(PROMPT), (other,), lead=2, burst=1)
    second = await turn.take()
    assert isinstance(second, Guessed)
    assert (second.branch, second.proposal.start_position) == (1, len(PROMPT) + 1)
    assert await turn.take() is not None, "for which the guess before it was read"
    turn.close()
    host.close(opened)
    await host.device.call(lambda _: None)
    assert opened.slot.tokens == [*PROMPT, other], "guesses are not kept"
    assert host.engine.table.open_count == 0


async def test_whoever_takes_is_woken_by_the_end(host: EngineHost) -> None:
    opened = await opened_slot(host, "ended")
    turn = host.draft(opened, DraftTask(len(PROMPT), len(PROMPT), lead=4))
    taking = asyncio.create_task(turn.take())
    await asyncio.sleep(0)
    turn.end()
    assert await asyncio.wait_for(taking, PATIENCE_SECONDS) is None
    turn.close()


async def test_drafting_ends_with_the_reason_when_another_turn_takes_the_slot(
    host: EngineHost,
) -> None:
    opened = await opened_slot(host, "taken")
    turn = host.draft(opened, DraftTask(len(PROMPT), len(PROMPT), lead=4))
    await opened_slot(host, "taken", epoch=2)
    turn.commit(0, PROMPT)
    with pytest.raises(StaleEpoch):
        await turn.take()


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"lead": 0}, "lead"),
        ({"lead": MAX_LEAD + 1}, "lead"),
        ({"lead": 4, "burst": 5}, "burst"),
        ({"lead": 4, "burst": -1}, "burst"),
        ({"lead": 4, "kept_length": 6}, "kept_length"),
        ({"lead": 4, "kept_length": -1}, "kept_length"),
    ],
)
def test_a_task_that_cannot_be_is_refused(asked: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        DraftTask(**({"committed_length": 5, "kept_length": 5} | asked))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("commit", "field"),
    [
        ((5, (1,), -1, None), "lead"),
        ((5, (1,), MAX_LEAD + 1, None), "lead"),
        ((5, (1,), None, 0), "burst"),
        ((5, (1,), None, MAX_LEAD + 1), "burst"),
        ((10_000, (1,), None, None), "start_position"),
    ],
)
async def test_a_commit_that_cannot_be_is_refused_and_changes_nothing(
    host: EngineHost, commit: tuple[int, tuple[int, ...], int | None, int | None], field: str
) -> None:
    opened = await opened_slot(host, "refused")
    turn = host.draft(opened, DraftTask(len(PROMPT), len(PROMPT), lead=1))
    with pytest.raises(InvalidRequest) as refused:
        turn.commit(*commit)
    assert refused.value.field == field
    turn.commit(0, PROMPT)
    guessed = await turn.take()
    assert guessed is not None
    assert guessed.proposal.start_position == len(PROMPT)
    turn.close()


async def test_a_draft_of_other_ids_is_refused(host: EngineHost) -> None:
    host.engine.check_vocabulary(host.engine.loaded.vocabulary_fingerprint)
    with pytest.raises(VocabularyMismatch):
        host.engine.check_vocabulary("another")


def test_a_loop_that_is_closed_meanwhile_is_told_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop_is_closed = threading.Event()

    async def ask() -> EngineHost:
        host = await EngineHost.started(tiny_engine)
        opened = await opened_slot(host, "left behind")
        host.device.wake(lambda: loop_is_closed.wait() and None)
        host.draft(opened, DraftTask(len(PROMPT), len(PROMPT), lead=4)).commit(0, PROMPT)
        host.close(opened)
        return host

    host = asyncio.run(ask())
    loop_is_closed.set()
    asyncio.run(host.stop())
    assert not caplog.records
    assert host.engine.table.open_count == 0
