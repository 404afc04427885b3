"""What every ledger promises, as tests. A store joins with a subclass that says how to open it."""

import asyncio

import pytest
from outrider_server.core.errors import (
    AlreadyExists,
    InvalidRequest,
    NotFound,
    OutriderError,
    PositionMismatch,
    StaleEpoch,
)
from outrider_server.core.types import FinishReason, TokenLogprobs, TokenSource
from outrider_server.session.ledger.ledger import Ledger, LedgerToken, NewTurn, SessionRecord

from .ledger_branching import BranchingConformance
from .ledger_fixtures import OpenLedger, generated, started_session
from .ledger_overlap import OverlapConformance
from .ledger_ownership import OwnershipConformance


class LedgerConformance(OwnershipConformance, BranchingConformance, OverlapConformance):
    async def test_a_new_session_is_empty_and_can_be_read_back(self, ledger: Ledger) -> None:
        session = await ledger.create_session("ada", "model")
        assert (session.owner, session.model_fingerprint) == ("ada", "model")
        assert (session.epoch, session.length, session.turn_count) == (0, 0, 0)
        assert await ledger.get_session(session.session_id, "ada") == session
        assert await ledger.tokens(session.session_id) == []
        assert await ledger.turns(session.session_id) == []

    async def test_sessions_have_different_ids(self, ledger: Ledger) -> None:
        ids = {(await ledger.create_session("", "model")).session_id for _ in range(20)}
        assert len(ids) == 20

    async def test_another_owners_session_is_exactly_as_missing(self, ledger: Ledger) -> None:
        session = await ledger.create_session("ada", "model")
        for call in (ledger.get_session, ledger.delete_session, ledger.fork):
            with pytest.raises(NotFound) as foreign:
                await call(session.session_id, "eve")
            with pytest.raises(NotFound) as missing:
                await call("nothing", "eve")
            assert str(foreign.value) == str(missing.value)
            with pytest.raises(NotFound):
                await call(session.session_id, "")
        assert await ledger.get_session(session.session_id, "ada") == session

    async def test_every_call_on_an_unknown_session_raises_not_found(self, ledger: Ledger) -> None:
        calls = [
            ledger.get_session("nothing", ""),
            ledger.delete_session("nothing", ""),
            ledger.take_over("nothing"),
            ledger.begin_turn("nothing", 0, 0, NewTurn("first", (1,))),
            ledger.append("nothing", 0, 0, generated(1)),
            ledger.finish_turn("nothing", 0, 0, FinishReason.LENGTH),
            ledger.tokens("nothing"),
            ledger.turns("nothing"),
            ledger.turn_tokens("nothing", 0),
            ledger.find_turn("nothing", "first"),
            ledger.renew("nothing", 0, 1.0),
            ledger.release("nothing", 0),
            ledger.rewind("nothing", 0, 0, 0),
            ledger.fork("nothing", ""),
            ledger.get_session("no\0thing", ""),
            ledger.append("no\0thing", 0, 0, generated(1)),
        ]
        for call in calls:
            with pytest.raises(NotFound):
                await call

    async def test_a_deleted_session_is_gone_with_all_it_held(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1, 2)
        await ledger.append(session_id, epoch, 2, generated(3))
        other, _ = await started_session(ledger, 7)
        await ledger.delete_session(session_id, "")
        with pytest.raises(NotFound):
            await ledger.tokens(session_id)
        with pytest.raises(NotFound):
            await ledger.append(session_id, epoch, 3, generated(4))
        assert await ledger.tokens(other) == [7]

    async def test_listing_shows_the_owners_sessions_newest_first(self, ledger: Ledger) -> None:
        made = [await ledger.create_session("ada", "model") for _ in range(5)]
        await ledger.create_session("eve", "model")
        page = await ledger.list_sessions("ada", 100)
        assert page.sessions == tuple(reversed(made))
        assert page.next_page_token == ""

    async def test_pages_join_without_gap_or_repeat(self, ledger: Ledger) -> None:
        made = [await ledger.create_session("ada", "model") for _ in range(5)]
        seen: list[SessionRecord] = []
        token = ""
        sizes: list[int] = []
        while not sizes or token:
            page = await ledger.list_sessions("ada", 2, token)
            await ledger.create_session("ada", "a session that came later")
            sizes.append(len(page.sessions))
            seen += page.sessions
            token = page.next_page_token
        assert sizes == [2, 2, 1]
        assert seen == made[::-1]

    async def test_a_page_goes_on_after_its_last_session_was_deleted(self, ledger: Ledger) -> None:
        made = [await ledger.create_session("", "model") for _ in range(3)]
        page = await ledger.list_sessions("", 2)
        await ledger.delete_session(made[1].session_id, "")
        rest = await ledger.list_sessions("", 2, page.next_page_token)
        assert rest.sessions == (made[0],)

    async def test_a_full_last_page_has_no_next_one(self, ledger: Ledger) -> None:
        await ledger.create_session("", "model")
        assert (await ledger.list_sessions("", 1)).next_page_token == ""

    @pytest.mark.parametrize("page_size", [-1, 0, 1001])
    async def test_a_page_size_outside_its_range_is_refused(
        self, ledger: Ledger, page_size: int
    ) -> None:
        with pytest.raises(InvalidRequest) as refused:
            await ledger.list_sessions("", page_size)
        assert refused.value.field == "page_size"

    @pytest.mark.parametrize(
        "page_token", ["?", "12", "-x", "9" * 40 + "-x", "1\N{SUPERSCRIPT TWO}-x", "1-\0"]
    )
    async def test_an_invented_page_token_is_refused(self, ledger: Ledger, page_token: str) -> None:
        with pytest.raises(InvalidRequest) as refused:
            await ledger.list_sessions("", 10, page_token)
        assert refused.value.field == "page_token"

    async def test_taking_over_makes_the_epoch_grow(self, ledger: Ledger) -> None:
        session = await ledger.create_session("", "model")
        leases = [await ledger.take_over(session.session_id) for _ in range(3)]
        assert [lease.epoch for lease in leases] == [1, 2, 3]
        assert [lease.until_us for lease in leases] == [0, 0, 0]
        assert (await ledger.get_session(session.session_id, "")).epoch == 3

    async def test_a_turn_begins_with_its_prompt_committed(self, ledger: Ledger) -> None:
        session = await ledger.create_session("", "model")
        epoch = (await ledger.take_over(session.session_id)).epoch
        turn = NewTurn("first", (5, 6, 7), '{"seed": 1}')
        record = await ledger.begin_turn(session.session_id, epoch, 0, turn)
        assert (record.turn_index, record.start_position, record.generated_from) == (0, 0, 3)
        assert (record.request_id, record.parameters) == ("first", '{"seed": 1}')
        assert record.finish_reason is None
        assert await ledger.tokens(session.session_id) == [5, 6, 7]
        assert await ledger.turns(session.session_id) == [record]
        after = await ledger.get_session(session.session_id, "")
        assert (after.length, after.turn_count) == (3, 1)
        assert after.updated_us >= after.created_us

    async def test_appended_tokens_follow_the_prompt(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1, 2)
        await ledger.append(session_id, epoch, 2, generated(3, 4, 5))
        await ledger.append(session_id, epoch, 5, generated(6))
        assert await ledger.tokens(session_id) == [1, 2, 3, 4, 5, 6]
        for position in range(8):
            assert await ledger.tokens(session_id, position) == [1, 2, 3, 4, 5, 6][position:]
        assert await ledger.tokens(session_id, -(2**70)) == [1, 2, 3, 4, 5, 6]
        assert await ledger.tokens(session_id, 2**70) == []
        assert (await ledger.get_session(session_id, "")).length == 6

    async def test_every_token_id_of_32_bits_is_kept(self, ledger: Ledger) -> None:
        ids = (0, 1, 2**16, 2**31, 2**32 - 1)
        session_id, epoch = await started_session(ledger, *ids)
        await ledger.append(session_id, epoch, len(ids), generated(*ids))
        assert await ledger.tokens(session_id) == [*ids, *ids]

    async def test_appending_nothing_changes_nothing(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1)
        before = await ledger.get_session(session_id, "")
        await ledger.append(session_id, epoch, 1, [])
        await ledger.append(session_id, epoch, 1, generated(2))
        assert await ledger.tokens(session_id) == [1, 2]
        assert before.length == 1

    async def test_a_turn_may_have_no_prompt(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger)
        await ledger.append(session_id, epoch, 0, generated(2))
        assert await ledger.turn_tokens(session_id, 0) == generated(2)

    async def test_tokens_need_a_turn(self, ledger: Ledger) -> None:
        session = await ledger.create_session("", "model")
        with pytest.raises(ValueError, match="turn"):
            await ledger.append(session.session_id, 0, 0, generated(1))
        assert await ledger.tokens(session.session_id) == []

    @pytest.mark.parametrize("wrong", [0, 1, 3, 2**40])
    async def test_another_epoch_writes_nothing_and_is_told_the_current_one(
        self, ledger: Ledger, wrong: int
    ) -> None:
        session_id, _ = await started_session(ledger, 1)
        await ledger.take_over(session_id)
        calls = [
            ledger.append(session_id, wrong, 1, generated(2)),
            ledger.append(session_id, wrong, 1, []),
            ledger.begin_turn(session_id, wrong, 1, NewTurn("second", (3,))),
            ledger.finish_turn(session_id, wrong, 0, FinishReason.LENGTH),
            ledger.rewind(session_id, wrong, 1, 0),
            ledger.renew(session_id, wrong, 1.0),
            ledger.release(session_id, wrong),
        ]
        before = await ledger.get_session(session_id, "")
        for call in calls:
            with pytest.raises(StaleEpoch) as refused:
                await call
            assert refused.value.current_epoch == 2
        assert await ledger.get_session(session_id, "") == before
        assert await ledger.tokens(session_id) == [1]
        assert [turn.finish_reason for turn in await ledger.turns(session_id)] == [None]

    @pytest.mark.parametrize("length", [0, 1, 3, 2**40])
    async def test_a_wrong_length_writes_nothing_and_names_the_right_one(
        self, ledger: Ledger, length: int
    ) -> None:
        session_id, epoch = await started_session(ledger, 1, 2)
        calls = [
            ledger.append(session_id, epoch, length, generated(3)),
            ledger.begin_turn(session_id, epoch, length, NewTurn("second", (3,))),
            ledger.rewind(session_id, epoch, length, 0),
        ]
        for call in calls:
            with pytest.raises(PositionMismatch) as refused:
                await call
            assert refused.value.position == 2
        assert await ledger.tokens(session_id) == [1, 2]
        assert len(await ledger.turns(session_id)) == 1

    async def test_a_request_id_is_used_once_in_a_session(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1)
        for length in (0, 1):  # a repeat is told so wherever it believes the session to be
            with pytest.raises(AlreadyExists):
                await ledger.begin_turn(session_id, epoch, length, NewTurn("first", (9,)))
        assert await ledger.tokens(session_id) == [1]
        await started_session(ledger, 1)  # another session may use it

    async def test_a_finished_turn_says_why(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1)
        for reason in FinishReason:
            await ledger.finish_turn(session_id, epoch, 0, reason)
            assert (await ledger.turns(session_id))[0].finish_reason is reason
        for unknown in (-1, 1, 2**70):
            with pytest.raises(ValueError, match="turn"):
                await ledger.finish_turn(session_id, epoch, unknown, FinishReason.LENGTH)

    async def test_a_turns_tokens_are_what_it_generated_and_no_others(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1, 2)
        await ledger.append(session_id, epoch, 2, generated(3, 4))
        await ledger.append(session_id, epoch, 4, generated(5, source=TokenSource.TARGET))
        await ledger.begin_turn(session_id, epoch, 5, NewTurn("second", (6, 7)))
        await ledger.append(session_id, epoch, 7, generated(8, source=TokenSource.NGRAM))
        first = generated(3, 4) + generated(5, source=TokenSource.TARGET)
        for index in range(5):
            assert await ledger.turn_tokens(session_id, 0, index) == first[index:]
        assert await ledger.turn_tokens(session_id, 1) == generated(8, source=TokenSource.NGRAM)
        assert await ledger.turn_tokens(session_id, 2) == []
        assert await ledger.turn_tokens(session_id, -1) == []
        assert await ledger.turn_tokens(session_id, 2**70) == []

    async def test_a_turn_that_generated_nothing_has_no_tokens(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1)
        await ledger.begin_turn(session_id, epoch, 1, NewTurn("second", (2,)))
        assert await ledger.turn_tokens(session_id, 0) == []
        assert await ledger.turn_tokens(session_id, 1) == []

    async def test_logprobs_come_back_bit_for_bit(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1)
        tokens = [
            LedgerToken(2, TokenSource.DRAFT, TokenLogprobs(-0.1, ((2, -0.1), (9, -1 / 3)))),
            LedgerToken(3, TokenSource.TARGET),
            LedgerToken(4, TokenSource.NGRAM, TokenLogprobs(-1e-300)),
            LedgerToken(5, TokenSource.TARGET, TokenLogprobs(float("-inf"))),
        ]
        await ledger.append(session_id, epoch, 1, tokens)
        assert await ledger.turn_tokens(session_id, 0) == tokens

    async def test_of_many_appends_at_one_length_exactly_one_wins(
        self, open_ledger: OpenLedger
    ) -> None:
        first, second = await open_ledger(), await open_ledger()
        session_id, epoch = await started_session(first, 1)
        outcomes = await asyncio.gather(
            *(
                ledger.append(session_id, epoch, 1, generated(10 + number, 20 + number))
                for number, ledger in enumerate([first, second] * 8)
            ),
            return_exceptions=True,
        )
        winners = [number for number, outcome in enumerate(outcomes) if outcome is None]
        losers = [outcome for outcome in outcomes if outcome is not None]
        assert len(winners) == 1
        assert all(isinstance(outcome, PositionMismatch) for outcome in losers)
        expected = [1, 10 + winners[0], 20 + winners[0]]
        assert await first.tokens(session_id) == await second.tokens(session_id) == expected

    async def test_of_many_turns_with_one_request_id_exactly_one_begins(
        self, open_ledger: OpenLedger
    ) -> None:
        first, second = await open_ledger(), await open_ledger()
        session = await first.create_session("", "model")
        outcomes = await asyncio.gather(
            *(
                ledger.begin_turn(session.session_id, 0, 0, NewTurn("same", (number,)))
                for number, ledger in enumerate([first, second] * 4)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, AlreadyExists) for outcome in outcomes) == 7
        assert len(await second.turns(session.session_id)) == 1
        assert len(await second.tokens(session.session_id)) == 1

    async def test_owners_that_take_over_get_different_epochs(
        self, open_ledger: OpenLedger
    ) -> None:
        first, second = await open_ledger(), await open_ledger()
        session = await first.create_session("", "model")
        leases = await asyncio.gather(
            *(ledger.take_over(session.session_id) for ledger in [first, second] * 5)
        )
        assert sorted(lease.epoch for lease in leases) == list(range(1, 11))

    async def test_a_cancelled_write_is_whole_or_absent(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1)
        write = asyncio.create_task(ledger.append(session_id, epoch, 1, generated(2, 3)))
        await asyncio.sleep(0)  # let it begin
        write.cancel()
        with pytest.raises(asyncio.CancelledError):
            await write
        length = (await ledger.get_session(session_id, "")).length
        assert await ledger.tokens(session_id) in ([1], [1, 2, 3])
        try:
            await ledger.append(session_id, epoch, length, generated(4))
        except PositionMismatch as moved:  # it came only now
            await ledger.append(session_id, epoch, moved.position, generated(4))
        assert await ledger.tokens(session_id) in ([1, 4], [1, 2, 3, 4])

    async def test_a_refused_call_leaves_the_ledger_usable(self, ledger: Ledger) -> None:
        session_id, epoch = await started_session(ledger, 1)
        with pytest.raises(OutriderError):
            await ledger.append(session_id, epoch, 7, generated(2))
        await ledger.append(session_id, epoch, 1, generated(2))
        assert await ledger.tokens(session_id) == [1, 2]
