"""What every ledger promises of time, as tests: leases, expiry and the sweep.

Stores go by a clock that the tests move on, and that also runs by itself. So lives and leases are
long here: a machine that stands still for a minute changes nothing.
"""

import asyncio

import pytest
from outrider_server.core.errors import InvalidRequest, LeaseHeld, NotFound, StaleEpoch
from outrider_server.core.limits import MAX_TTL_SECONDS
from outrider_server.core.types import FinishReason
from outrider_server.session.ledger.ledger import Ledger, NewTurn

from .ledger_fixtures import LedgerFixtures, OpenLedger, generated, started_session


class OwnershipConformance(LedgerFixtures):
    async def test_a_lease_keeps_others_out_until_it_ends(self, open_ledger: OpenLedger) -> None:
        first, second = await open_ledger(), await open_ledger()
        session = await first.create_session("", "model")
        lease = await first.take_over(session.session_id, "ada", 1000.0)
        held = await second.get_session(session.session_id, "")
        assert (held.holder, held.lease_until_us, held.epoch) == ("ada", lease.until_us, 1)
        assert lease.until_us == held.updated_us + 1_000_000_000
        for seconds in (0.0, 1000.0):
            with pytest.raises(LeaseHeld, match="ada") as refused:
                await second.take_over(session.session_id, "eve", seconds)
        assert 1 <= refused.value.retry_after_ms <= 1_000_000
        assert await second.get_session(session.session_id, "") == held
        self.pass_time(refused.value.retry_after_ms / 1000)
        assert (await second.take_over(session.session_id, "eve", 1000.0)).epoch == 2
        with pytest.raises(StaleEpoch):
            await first.renew(session.session_id, lease.epoch, 1000.0)
        with pytest.raises(StaleEpoch):
            await first.release(session.session_id, lease.epoch)
        assert (await first.get_session(session.session_id, "")).holder == "eve"

    async def test_a_record_says_whether_a_lease_runs(self, ledger: Ledger) -> None:
        session = await ledger.create_session("", "model")
        other = await ledger.create_session("", "model")

        async def held() -> list[bool]:
            read = await ledger.get_session(session.session_id, "")
            page = await ledger.list_sessions("", 10)
            listed = {each.session_id: each.is_held for each in page.sessions}
            assert not listed[other.session_id]
            return [read.is_held, listed[session.session_id]]

        assert await held() == [False, False]
        lease = await ledger.take_over(session.session_id, "ada", 1000.0)
        assert await held() == [True, True]
        self.pass_time(2000)
        assert await held() == [False, False], "it ran out by the store's clock"
        lease = await ledger.renew(session.session_id, lease.epoch, 1000.0)
        assert await held() == [True, True]
        await ledger.release(session.session_id, lease.epoch)
        assert await held() == [False, False]

    async def test_the_end_of_a_turn_is_the_end_of_the_lease(self, ledger: Ledger) -> None:
        session = await ledger.create_session("", "model")
        epoch = (await ledger.take_over(session.session_id, "ada", 1000.0)).epoch
        await ledger.begin_turn(session.session_id, epoch, 0, NewTurn("first", (1,)))
        await ledger.finish_turn(session.session_id, epoch, 0, FinishReason.LENGTH)
        ended = await ledger.get_session(session.session_id, "")
        assert (ended.holder, ended.lease_until_us, ended.is_held) == ("", 0, False)
        assert (await ledger.take_over(session.session_id, "eve", 1000.0)).epoch == epoch + 1

    async def test_a_forced_take_over_ends_the_lease(self, ledger: Ledger) -> None:
        session = await ledger.create_session("", "model")
        await ledger.take_over(session.session_id, "ada", 1000.0)
        forced = await ledger.take_over(session.session_id, "eve", force=True)
        assert (forced.epoch, forced.until_us) == (2, 0)
        after = await ledger.get_session(session.session_id, "")
        assert (after.holder, after.lease_until_us) == ("", 0)

    async def test_the_holder_may_take_over_again(self, ledger: Ledger) -> None:
        session = await ledger.create_session("", "model")
        first = await ledger.take_over(session.session_id, "ada", 1000.0)
        second = await ledger.take_over(session.session_id, "ada", 2000.0)
        assert second.epoch == 2
        assert second.until_us > first.until_us

    async def test_a_renewed_lease_goes_on_and_a_released_one_ends(self, ledger: Ledger) -> None:
        session = await ledger.create_session("", "model")
        lease = await ledger.take_over(session.session_id, "ada", 1000.0)
        self.pass_time(800)
        renewed = await ledger.renew(session.session_id, lease.epoch, 1000.0)
        assert renewed.epoch == lease.epoch
        assert renewed.until_us >= lease.until_us + 800_000_000
        self.pass_time(800)
        with pytest.raises(LeaseHeld):
            await ledger.take_over(session.session_id, "eve", 1000.0)
        await ledger.release(session.session_id, lease.epoch)
        assert (await ledger.get_session(session.session_id, "")).holder == ""
        await ledger.begin_turn(session.session_id, lease.epoch, 0, NewTurn("late", (1,)))
        assert (await ledger.take_over(session.session_id, "eve", 1000.0)).epoch == 2

    async def test_a_lease_that_ran_out_may_be_renewed_while_nobody_took_over(
        self, ledger: Ledger
    ) -> None:
        session = await ledger.create_session("", "model")
        lease = await ledger.take_over(session.session_id, "ada", 1.0)
        self.pass_time(600)
        await ledger.renew(session.session_id, lease.epoch, 1000.0)
        with pytest.raises(LeaseHeld):
            await ledger.take_over(session.session_id, "eve")

    @pytest.mark.parametrize("seconds", [-1.0, 3601.0, float("nan"), float("inf")])
    async def test_a_lease_outside_its_range_is_refused(
        self, ledger: Ledger, seconds: float
    ) -> None:
        session = await ledger.create_session("", "model")
        with pytest.raises(ValueError, match="lease"):
            await ledger.take_over(session.session_id, "ada", seconds)
        with pytest.raises(ValueError, match="lease"):
            await ledger.renew(session.session_id, 0, seconds)

    async def test_of_many_that_want_a_lease_exactly_one_gets_it(
        self, open_ledger: OpenLedger
    ) -> None:
        first, second = await open_ledger(), await open_ledger()
        session = await first.create_session("", "model")
        outcomes = await asyncio.gather(
            *(
                ledger.take_over(session.session_id, f"holder {number}", 1000.0)
                for number, ledger in enumerate([first, second] * 5)
            ),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, LeaseHeld) for outcome in outcomes) == 9
        assert (await first.get_session(session.session_id, "")).epoch == 1

    async def test_a_session_lives_as_long_as_asked_or_as_the_default_says(
        self, open_ledger: OpenLedger
    ) -> None:
        ledger = await open_ledger(default_ttl_seconds=10_000)
        default = await ledger.create_session("", "model")
        own = await ledger.create_session("", "model", 700)
        endless = await ledger.create_session("", "model", 0)
        assert [each.ttl_seconds for each in (default, own, endless)] == [10_000, 700, 0]
        assert default.expires_us == default.created_us + 10_000_000_000
        assert own.expires_us == own.created_us + 700_000_000
        assert endless.expires_us is None
        assert await ledger.get_session(own.session_id, "") == own

    @pytest.mark.parametrize("ttl_seconds", [-1, MAX_TTL_SECONDS + 1, 2**70])
    async def test_a_life_outside_its_range_is_refused(
        self, ledger: Ledger, ttl_seconds: int
    ) -> None:
        with pytest.raises(InvalidRequest) as refused:
            await ledger.create_session("", "model", ttl_seconds)
        assert refused.value.field == "ttl_seconds"

    async def test_an_expired_session_is_exactly_as_missing(self, ledger: Ledger) -> None:
        session = await ledger.create_session("", "model", 1000)
        kept = await ledger.create_session("", "model")
        epoch = (await ledger.take_over(session.session_id)).epoch
        await ledger.begin_turn(session.session_id, epoch, 0, NewTurn("first", (1,)))
        self.pass_time(1100)
        calls = [
            ledger.get_session(session.session_id, ""),
            ledger.tokens(session.session_id),
            ledger.turns(session.session_id),
            ledger.find_turn(session.session_id, "first"),
            ledger.turn_tokens(session.session_id, 0),
            ledger.append(session.session_id, epoch, 1, generated(2)),
            ledger.begin_turn(session.session_id, epoch, 1, NewTurn("second", (1,))),
            ledger.take_over(session.session_id),
            ledger.renew(session.session_id, epoch, 1.0),
            ledger.fork(session.session_id, ""),
            ledger.delete_session(session.session_id, ""),
        ]
        for call in calls:
            with pytest.raises(NotFound, match="no such session"):
                await call
        assert (await ledger.list_sessions("", 10)).sessions == (kept,)

    async def test_every_write_puts_the_end_off(self, ledger: Ledger) -> None:
        session_id = (await ledger.create_session("", "model", 1000)).session_id
        epoch = 0

        async def took_over() -> None:
            nonlocal epoch
            epoch = (await ledger.take_over(session_id)).epoch

        async def rewound() -> None:
            nonlocal epoch
            epoch = (await ledger.rewind(session_id, epoch, 2, 1)).epoch

        for write in (
            took_over,
            lambda: ledger.begin_turn(session_id, epoch, 0, NewTurn("first", (1,))),
            lambda: ledger.append(session_id, epoch, 1, generated(2)),
            lambda: ledger.finish_turn(session_id, epoch, 0, FinishReason.LENGTH),
            rewound,
            lambda: ledger.renew(session_id, epoch, 0.0),
            lambda: ledger.release(session_id, epoch),
        ):
            before = await ledger.get_session(session_id, "")
            self.pass_time(800)
            await write()
            after = await ledger.get_session(session_id, "")
            assert after.updated_us >= before.updated_us + 800_000_000
            assert after.expires_us == after.updated_us + 1_000_000_000

    async def test_the_sweep_deletes_what_expired_and_nothing_else(self, ledger: Ledger) -> None:
        expired = [await ledger.create_session("", "model", seconds) for seconds in (500, 300, 400)]
        kept = [await ledger.create_session("", "model", seconds) for seconds in (0, 6000)]
        assert await ledger.sweep() == 0
        self.pass_time(1000)
        assert await ledger.sweep(2) == 2
        self.pass_time(-1000)  # the one that expired last is left
        assert await ledger.get_session(expired[0].session_id, "") == expired[0]
        with pytest.raises(NotFound):
            await ledger.get_session(expired[1].session_id, "")
        self.pass_time(1000)
        assert await ledger.sweep(2) == 1
        assert await ledger.sweep(2) == 0
        assert (await ledger.list_sessions("", 10)).sessions == tuple(reversed(kept))

    async def test_a_lease_keeps_an_expired_session_alive(self, ledger: Ledger) -> None:
        session_id = (await ledger.create_session("", "model", 500)).session_id
        lease = await ledger.take_over(session_id, "ada", 3600.0)
        self.pass_time(1800)
        assert await ledger.sweep() == 0
        await ledger.begin_turn(session_id, lease.epoch, 0, NewTurn("first", (1,)))
        self.pass_time(1000)
        await ledger.append(session_id, lease.epoch, 1, generated(2))
        assert await ledger.tokens(session_id) == [1, 2]
        self.pass_time(3600)
        assert await ledger.sweep() == 1

    async def test_sweeps_at_once_delete_each_session_once(self, open_ledger: OpenLedger) -> None:
        first, second = await open_ledger(), await open_ledger()
        for _ in range(20):
            await first.create_session("", "model", 1)
        await started_session(first, 1)
        self.pass_time(2)
        swept = await asyncio.gather(*(ledger.sweep(4) for ledger in [first, second] * 5))
        swept.append(await first.sweep())
        assert sum(swept) == 20
