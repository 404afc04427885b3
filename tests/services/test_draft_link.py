"""What the draft is told, and when: over a real stream, to a draft that writes it down."""

# ruff: noqa: N802 - gRPC names the methods of a servicer.

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from outrider.v1 import draft_pb2, draft_pb2_grpc
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.rpc.channels import open_channel
from outrider_server.session.peers import draft_link
from outrider_server.session.peers.draft_link import DraftedTurn, DraftLink, RemoteDrafter

from .fake_drafts import opened, proposal
from .harness import serving_draft, until

TOKENS = (1, 2, 3)


class ListeningDraft(draft_pb2_grpc.DraftServiceServicer):
    """Writes down what it hears and says what the test puts into `to_say`."""

    def __init__(self) -> None:
        self.commits: list[draft_pb2.DraftCommit] = []
        self.to_say: asyncio.Queue[draft_pb2.DraftResponse] = asyncio.Queue()

    async def Draft(self, requests: Any, _: Any) -> AsyncIterator[draft_pb2.DraftResponse]:
        self.opening = (await anext(aiter(requests))).open
        yield opened()
        listening = asyncio.create_task(self._listen(requests))
        try:
            while True:
                yield await self.to_say.get()
        finally:
            listening.cancel()

    async def _listen(self, requests: Any) -> None:
        async for request in requests:
            self.commits.append(request.commit)

    async def hears(self, count: int) -> draft_pb2.DraftCommit:
        """The last commit, once there are so many."""

        async def heard() -> bool:
            return len(self.commits) >= count

        await until(heard)
        assert len(self.commits) == count
        return self.commits[-1]


def ways(drafter: RemoteDrafter) -> list[float | None]:
    """The ways that were measured since they were asked for last."""
    return [cost.answered_ms for cost in drafter._spent]


@asynccontextmanager
async def drafting(
    folder: Path, pace: tuple[int, int] | None = None, lead: int = 4
) -> AsyncIterator[tuple[RemoteDrafter, ListeningDraft]]:
    """A drafter and the draft that it talks to, which has heard of the session's tokens."""
    draft = ListeningDraft()
    address = f"unix:{folder}/draft"
    async with serving_draft(draft, address):
        link = DraftLink(open_channel(address), time.monotonic)
        draw = Draw(SamplingParams(), 1, len(TOKENS))
        turn = DraftedTurn("session", 1, TOKENS, 2, draw, lead, 1, "vocabulary", 100)
        drafter = link.open_turn(turn)
        if pace is not None:
            drafter.pace(*pace)
        try:
            await draft.hears(1)
            yield drafter, draft
        finally:
            drafter.close()
            await link.close()


async def settled() -> None:
    """Returns when everything that could be sent has been handed to gRPC."""
    for _ in range(20):
        await asyncio.sleep(0)


def pace_of(commit: draft_pb2.DraftCommit) -> tuple[int | None, int | None]:
    return (
        commit.lead if commit.HasField("lead") else None,
        commit.burst if commit.HasField("burst") else None,
    )


async def received(drafter: RemoteDrafter, holds: Callable[[], bool]) -> None:
    async def held() -> bool:
        return holds()

    await until(held)


async def test_the_first_commit_brings_the_sessions_tokens_and_the_pace_set_by_then(tmp_path):
    async with drafting(tmp_path, pace=(0, 1)) as (_, draft):
        first = draft.commits[0]
        assert (first.start_position, tuple(first.tokens)) == (0, TOKENS)
        assert pace_of(first) == (0, 1)


async def test_the_draft_is_told_how_much_of_the_session_stays(tmp_path):
    async with drafting(tmp_path) as (_, draft):
        assert (draft.opening.kept_length, draft.opening.committed_length) == (2, len(TOKENS))


async def test_the_draft_is_told_which_ids_the_target_has(tmp_path):
    async with drafting(tmp_path) as (_, draft):
        opening = draft.opening
        assert (opening.vocabulary_fingerprint, opening.vocabulary_size) == ("vocabulary", 100)


async def test_commits_to_a_draft_that_rests_are_held_back_and_joined(tmp_path):
    async with drafting(tmp_path, pace=(0, 1)) as (drafter, draft):
        for position in range(3, 8):
            drafter.commit(position, (position + 1,))
            drafter.pace(0, 1)
            await settled()
        drafter.commit(8, (9, 10))
        drafter.pace(6, 2)
        joined = await draft.hears(2)
        assert (joined.start_position, list(joined.tokens)) == (3, [4, 5, 6, 7, 8, 9, 10])
        assert pace_of(joined) == (6, 2)
        drafter.commit(10, (11,))
        drafter.pace(6, 2)
        following = await draft.hears(3)
        assert (following.start_position, list(following.tokens)) == (10, [11])
        assert pace_of(following) == (None, None), "a pace that did not change is not sent"


async def test_the_commit_that_sends_a_draft_to_rest_is_sent(tmp_path):
    async with drafting(tmp_path) as (drafter, draft):
        drafter.commit(3, (4,))
        drafter.pace(0, 1)
        last = await draft.hears(2)
        assert (last.start_position, list(last.tokens), pace_of(last)) == (3, [4], (0, 1))
        drafter.commit(4, (5,))
        drafter.pace(0, 3)
        drafter.commit(5, (6,))
        drafter.pace(4, 1)
        joined = await draft.hears(3)
        assert (joined.start_position, list(joined.tokens), pace_of(joined)) == (4, [5, 6], (4, 1))


async def test_a_pace_alone_wakes_the_draft(tmp_path):
    async with drafting(tmp_path, pace=(0, 1)) as (drafter, draft):
        drafter.pace(5, 1)
        woken = await draft.hears(2)
        assert (woken.start_position, list(woken.tokens), pace_of(woken)) == (3, [], (5, 1))


async def test_branches_count_right_across_commits_that_were_held_back(tmp_path):
    """The draft hears of the contradiction late; what it guessed before is of the ended branch."""
    async with drafting(tmp_path) as (drafter, draft):
        await draft.to_say.put(proposal(0, 3, 4, 90, 91))
        await received(drafter, lambda: len(drafter._guesses) == 3)
        drafter.commit(3, (4,))
        drafter.pace(0, 1)
        await draft.hears(2)
        drafter.commit(4, (5, 6))
        drafter.pace(0, 1)
        assert drafter.compared() == (2, 1)
        drafter.commit(6, (7,))
        drafter.pace(3, 1)
        joined = await draft.hears(3)
        assert (joined.start_position, list(joined.tokens)) == (4, [5, 6, 7])
        await draft.to_say.put(proposal(0, 6, 92))
        await draft.to_say.put(proposal(1, 7, 8, 9))
        taken = await drafter.take(7, 2, 7)
        assert taken.tokens == (8, 9)
        assert drafter.compared() == (0, 0)


async def test_late_guesses_of_a_resting_draft_are_compared_before_it_hears_of_their_tokens(
    tmp_path,
):
    """A probe: nobody waits, and what comes late is judged all the same."""
    async with drafting(tmp_path) as (drafter, draft):
        drafter.commit(3, (4, 5, 6))
        drafter.pace(0, 1)
        await draft.to_say.put(proposal(0, 3, 4, 5, 90))
        await received(drafter, lambda: drafter._guesses.branch == 1)
        assert drafter.compared() == (3, 2)


async def test_the_way_is_measured_for_answers_alone(tmp_path):
    async with drafting(tmp_path) as (drafter, draft):
        await draft.to_say.put(proposal(0, 3, 4))
        await received(drafter, lambda: len(ways(drafter)) == 1)
        assert ways(drafter) == [None], "nobody had asked"
        drafter.commit(3, (4,))
        drafter.pace(4, 1)
        await draft.hears(2)
        await draft.to_say.put(proposal(0, 4, 5))
        await received(drafter, lambda: len(ways(drafter)) == 2)
        assert ways(drafter)[1] is not None
        assert ways(drafter)[1] > 0
        await draft.to_say.put(proposal(0, 5, 6))
        await received(drafter, lambda: len(ways(drafter)) == 3)
        assert ways(drafter)[2] is None, "the second guess came without being asked for"


async def test_an_answer_to_what_was_asked_before_is_none(tmp_path):
    """A guess of an ended branch was on its way already when the commit was sent."""
    async with drafting(tmp_path) as (drafter, draft):
        await draft.to_say.put(proposal(0, 3, 90))
        await received(drafter, lambda: len(ways(drafter)) == 1)
        drafter.commit(3, (4,))
        drafter.pace(4, 1)
        await draft.hears(2)
        await draft.to_say.put(proposal(0, 4, 91))
        await draft.to_say.put(proposal(1, 4, 5))
        await received(drafter, lambda: len(ways(drafter)) == 3)
        assert ways(drafter)[1] is None
        assert ways(drafter)[2] is not None


async def test_a_commit_that_asks_for_nothing_starts_no_clock(tmp_path):
    async with drafting(tmp_path) as (drafter, draft):
        drafter.commit(3, (4,))
        drafter.pace(0, 1)
        await draft.hears(2)
        await draft.to_say.put(proposal(0, 4, 5))
        await received(drafter, lambda: len(ways(drafter)) == 1)
        assert ways(drafter) == [None]


async def test_guesses_are_counted_whether_they_are_of_use_or_not(tmp_path):
    async with drafting(tmp_path) as (drafter, draft):
        for branch in (0, 5):
            message = proposal(branch, 3, 4, 5)
            message.proposal.draft_us = 3_000
            await draft.to_say.put(message)
        await received(drafter, lambda: len(ways(drafter)) == 2)
        spent = drafter.spent()
        assert [(cost.guesses, cost.draft_ms) for cost in spent] == [(2, 3.0), (2, 3.0)]
        assert drafter.spent() == (), "each is told once"


async def test_a_draft_within_its_largest_lead_is_believed_after_its_lead_fell(tmp_path):
    """Guesses that were right to make when they were made are no reason to end the stream."""
    async with drafting(tmp_path, lead=6) as (drafter, draft):
        drafter.commit(3, (4,))
        drafter.pace(1, 1)
        await draft.to_say.put(proposal(0, 4, 5, 6, 7, 8))
        taken = await drafter.take(4, 4, 7)
        assert (taken.tokens, drafter.trouble) == ((5, 6, 7, 8), "")
        await draft.to_say.put(proposal(0, 8, 9, 10, 11))
        await received(drafter, lambda: bool(drafter.trouble))
        assert "further ahead" in drafter.trouble


async def test_a_late_draft_is_waited_for_again_once_it_brings_what_is_asked_for_by_then(
    tmp_path, monkeypatch
):
    """A lead that fell lets it never bring as many as were missed."""
    async with drafting(tmp_path, pace=(4, 4)) as (drafter, draft):
        with monkeypatch.context() as hasty:
            hasty.setattr(draft_link, "PATIENCE_MS", 1)
            assert (await drafter.take(3, 4, 7)).tokens == ()
        await draft.to_say.put(proposal(0, 3, 4, 5))
        await received(drafter, lambda: len(drafter._guesses) == 2)
        assert drafter.is_late, "fewer than are asked for"
        drafter.commit(3, (4, 5, 6))
        drafter.pace(2, 2)
        await draft.to_say.put(proposal(0, 6, 7, 8))
        await received(drafter, lambda: not drafter.is_late)
        assert (await drafter.take(6, 2, 7)).tokens == (7, 8)


@pytest.mark.parametrize("tokens", [(), (100,), (-1,)])
async def test_a_proposal_that_cannot_be_ends_the_draft_not_the_turn(tmp_path, tokens):
    async with drafting(tmp_path) as (drafter, draft):
        await draft.to_say.put(proposal(0, 3, *tokens))
        assert (await drafter.take(3, 1, 7)).tokens == ()
        assert "proposed" in drafter.trouble
