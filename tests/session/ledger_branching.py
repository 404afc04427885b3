"""What every ledger promises of rewinding, forking and request ids, as tests."""

import asyncio

import pytest
from outrider_server.core.errors import AlreadyExists, InvalidRequest, PositionMismatch, StaleEpoch
from outrider_server.core.types import FinishReason
from outrider_server.session.ledger.ledger import Ledger, NewTurn

from .ledger_fixtures import (
    FIRST_REPLY,
    TOKENS,
    LedgerFixtures,
    OpenLedger,
    generated,
    started_session,
    two_turns,
)

# position -> for each turn that is left: prompt tokens, generated tokens, whether it is cut
CUTS = {
    0: [],
    1: [(1, 0, True)],
    3: [(3, 0, True)],
    4: [(3, 1, True)],
    5: [(3, 2, True)],
    6: [(3, 3, True)],
    7: [(3, 4, False)],
    8: [(3, 4, False), (1, 0, True)],
    9: [(3, 4, False), (2, 0, True)],
    10: [(3, 4, False), (2, 1, True)],
    11: [(3, 4, False), (2, 2, False)],
}
REASONS = (FinishReason.END_TOKEN, FinishReason.LENGTH)


async def assert_holds(ledger: Ledger, session_id: str, position: int) -> None:
    """The session is what `two_turns` wrote, up to a position."""
    assert await ledger.tokens(session_id) == TOKENS[:position]
    turns = await ledger.turns(session_id)
    assert [turn.turn_index for turn in turns] == list(range(len(CUTS[position])))
    replies = (FIRST_REPLY, generated(19, 20))
    for turn, (prompt, generated_count, is_cut) in zip(turns, CUTS[position], strict=True):
        assert turn.start_position == (0, 7)[turn.turn_index]
        assert (turn.prompt_tokens, turn.is_cut) == (prompt, is_cut)
        reason = FinishReason.CANCELLED if is_cut else REASONS[turn.turn_index]
        assert turn.finish_reason is reason
        reply = replies[turn.turn_index][:generated_count]
        assert await ledger.turn_tokens(session_id, turn.turn_index) == reply
    session = await ledger.get_session(session_id, "")
    assert (session.length, session.turn_count) == (position, len(turns))


class BranchingConformance(LedgerFixtures):
    @pytest.mark.parametrize("position", CUTS)
    async def test_a_rewind_leaves_exactly_what_came_before(
        self, ledger: Ledger, position: int
    ) -> None:
        session_id, epoch = await two_turns(ledger)
        other, _ = await two_turns(ledger)
        record = await ledger.rewind(session_id, epoch, 11, position)
        assert record == await ledger.get_session(session_id, "")
        assert record.epoch == epoch + 1
        await assert_holds(ledger, session_id, position)
        await assert_holds(ledger, other, 11)
        turn = NewTurn("again", (1, 2))
        begun = await ledger.begin_turn(session_id, record.epoch, position, turn)
        await ledger.append(session_id, record.epoch, position + 2, generated(3))
        assert begun.turn_index == len(CUTS[position])
        assert await ledger.tokens(session_id) == [*TOKENS[:position], 1, 2, 3]
        assert await ledger.turn_tokens(session_id, begun.turn_index) == generated(3)

    @pytest.mark.parametrize("position", [-1, 12, 2**70, -(2**70)])
    async def test_a_position_that_the_session_does_not_have_is_refused(
        self, ledger: Ledger, position: int
    ) -> None:
        session_id, epoch = await two_turns(ledger)
        for call in (
            ledger.rewind(session_id, epoch, 11, position),
            ledger.fork(session_id, "", position),
        ):
            with pytest.raises(InvalidRequest, match=r"11 tokens; .*0 to 11") as refused:
                await call
            assert refused.value.field == "position"
        await assert_holds(ledger, session_id, 11)
        assert len((await ledger.list_sessions("", 10)).sessions) == 1

    async def test_a_write_from_before_a_rewind_is_refused_though_the_length_is_the_same(
        self, ledger: Ledger
    ) -> None:
        session_id, epoch = await two_turns(ledger)
        after = await ledger.rewind(session_id, epoch, 11, 9)
        with pytest.raises(StaleEpoch):
            await ledger.append(session_id, epoch, 9, generated(19, 20))
        with pytest.raises(StaleEpoch):
            await ledger.rewind(session_id, epoch, 9, 3)
        assert after.epoch == epoch + 1
        assert await ledger.tokens(session_id) == TOKENS[:9]

    async def test_a_rewind_keeps_the_lease(self, ledger: Ledger) -> None:
        session_id, _ = await two_turns(ledger)
        lease = await ledger.take_over(session_id, "ada", 10.0)
        record = await ledger.rewind(session_id, lease.epoch, 11, 3)
        assert (record.holder, record.lease_until_us) == ("ada", lease.until_us)

    async def test_of_many_rewinds_exactly_one_wins(self, open_ledger: OpenLedger) -> None:
        first, second = await open_ledger(), await open_ledger()
        session_id, epoch = await two_turns(first)
        outcomes = await asyncio.gather(
            *(
                ledger.rewind(session_id, epoch, 11, 3 + number)
                for number, ledger in enumerate([first, second] * 4)
            ),
            return_exceptions=True,
        )
        losers = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        assert len(losers) == 7
        assert all(isinstance(loser, (StaleEpoch, PositionMismatch)) for loser in losers)
        (winner,) = (number for number, each in enumerate(outcomes) if each not in losers)
        await assert_holds(first, session_id, 3 + winner)

    async def test_a_request_id_that_a_rewind_dropped_stays_used(self, ledger: Ledger) -> None:
        session_id, epoch = await two_turns(ledger)
        epoch = (await ledger.rewind(session_id, epoch, 11, 7)).epoch
        assert await ledger.find_turn(session_id, "second") is None
        with pytest.raises(AlreadyExists, match="rewind"):
            await ledger.begin_turn(session_id, epoch, 7, NewTurn("second", (1,)))
        await ledger.begin_turn(session_id, epoch, 7, NewTurn("third", (1,)))
        epoch = (await ledger.rewind(session_id, epoch, 8, 0)).epoch
        for used in ("first", "second", "third"):
            with pytest.raises(AlreadyExists):
                await ledger.begin_turn(session_id, epoch, 0, NewTurn(used, (1,)))

    @pytest.mark.parametrize("position", CUTS)
    async def test_a_fork_is_the_session_up_to_there_and_leaves_the_session_alone(
        self, ledger: Ledger, position: int
    ) -> None:
        session_id, _ = await two_turns(ledger)
        before = await ledger.get_session(session_id, "")
        copy = await ledger.fork(session_id, "", position)
        assert copy == await ledger.get_session(copy.session_id, "")
        assert (copy.owner, copy.model_fingerprint, copy.epoch) == ("", "model", 0)
        await assert_holds(ledger, copy.session_id, position)
        await assert_holds(ledger, session_id, 11)
        assert await ledger.get_session(session_id, "") == before
        epoch = (await ledger.take_over(copy.session_id)).epoch
        await ledger.begin_turn(copy.session_id, epoch, position, NewTurn("first", (1,)))
        await ledger.delete_session(copy.session_id, "")
        await assert_holds(ledger, session_id, 11)

    async def test_a_fork_without_a_position_copies_all(self, ledger: Ledger) -> None:
        session_id, _ = await two_turns(ledger)
        copy = await ledger.fork(session_id, "")
        await assert_holds(ledger, copy.session_id, 11)

    async def test_a_fork_of_a_turn_that_has_not_ended_is_cut_there(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1, 2)
        await ledger.append(session_id, epoch, 2, generated(3))
        copy = await ledger.fork(session_id, "")
        (turn,) = await ledger.turns(copy.session_id)
        assert (turn.finish_reason, turn.is_cut) == (FinishReason.CANCELLED, True)
        assert await ledger.turn_tokens(copy.session_id, 0) == generated(3)
        (original,) = await ledger.turns(session_id)
        assert (original.finish_reason, original.is_cut) == (None, False)

    async def test_request_ids_of_the_original_replay_nothing_in_the_fork(
        self, ledger: Ledger
    ) -> None:
        session_id, _ = await two_turns(ledger)
        copy = await ledger.fork(session_id, "")
        assert await ledger.find_turn(copy.session_id, "first") is None
        turns = await ledger.turns(copy.session_id)
        for turn in turns:
            assert await ledger.find_turn(copy.session_id, turn.request_id) == turn
        assert len({turn.request_id for turn in turns} | {"first", "second"}) == 4

    async def test_a_fork_of_a_fork_keeps_what_was_cut(self, ledger: Ledger) -> None:
        session_id, _ = await two_turns(ledger)
        middle = await ledger.fork(session_id, "", 10)
        copy = await ledger.fork(middle.session_id, "")
        await assert_holds(ledger, copy.session_id, 10)

    async def test_a_fork_lives_as_long_as_its_original_and_on_its_own(
        self, ledger: Ledger
    ) -> None:
        session = await ledger.create_session("ada", "model", 1000)
        self.pass_time(800)
        copy = await ledger.fork(session.session_id, "ada")
        assert copy.ttl_seconds == 1000
        assert copy.expires_us == copy.created_us + 1_000_000_000
        self.pass_time(400)
        assert await ledger.sweep() == 1
        assert await ledger.get_session(copy.session_id, "ada") == copy

    async def test_a_turn_is_found_by_its_request_id(self, ledger: Ledger) -> None:
        session_id, _ = await two_turns(ledger)
        found = await ledger.find_turn(session_id, "second")
        assert found == (await ledger.turns(session_id))[1]
        assert found is not None
        assert (found.turn_index, found.parameters) == (1, '{"seed": 2}')
        for unknown in ("", "third", "sec\0nd"):
            assert await ledger.find_turn(session_id, unknown) is None

    async def test_a_request_id_that_no_store_can_hold_is_refused(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1)
        with pytest.raises(InvalidRequest) as refused:
            await ledger.begin_turn(session_id, epoch, 1, NewTurn("no\0thing", (1,)))
        assert refused.value.field == "request_id"
