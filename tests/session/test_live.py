"""Which sessions a process holds: leases while turns run, on a clock that the tests move."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from outrider_server.core.errors import LeaseHeld, StaleEpoch, TurnRunning
from outrider_server.core.types import FinishReason
from outrider_server.session.ledger.ledger import NewTurn
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger
from outrider_server.session.ledger.steady_clock import SteadyClock
from outrider_server.session.live import LiveSessions

LEASE_SECONDS = 6.0


class SteppedClock:
    """`advance` lets time pass, and everything happen that waits for it."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []

    def now_us(self) -> int:
        return int(self.seconds * 1_000_000)

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._waiting.append((self.seconds + seconds, woken))
        await woken

    async def advance(self, seconds: float, ledger: SqliteLedger) -> None:
        self.seconds += seconds
        due = [woken for at, woken in self._waiting if at <= self.seconds]
        self._waiting = [entry for entry in self._waiting if entry[1] not in due]
        for woken in due:
            if not woken.done():
                woken.set_result(None)
        await asyncio.sleep(0)  # the renewal is handed to the ledger's thread
        await ledger.list_sessions("", 1)  # and written before this is read


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
async def ledger(clock: SteppedClock, tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    time = SteadyClock(clock.now_us, clock.now_us)
    async with aclosing(SqliteLedger(tmp_path / "ledger.db", clock=time)) as opened:
        yield opened


@pytest.fixture
async def session_id(ledger: SqliteLedger) -> str:
    return (await ledger.create_session("", "model")).session_id


async def started(live: LiveSessions, session_id: str) -> int:
    live.claim(session_id)
    return await live.epoch(session_id)


def ended(live: LiveSessions, session_id: str) -> None:
    live.free(live._running[session_id])


async def test_a_turn_that_runs_long_keeps_its_lease(ledger, clock, session_id) -> None:
    first = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    second = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    epoch = await started(first, session_id)
    for _ in range(10):
        await clock.advance(LEASE_SECONDS / 2, ledger)
        with pytest.raises(LeaseHeld):
            await started(second, session_id)
        ended(second, session_id)
    await ledger.begin_turn(session_id, epoch, 0, NewTurn("first", (1,)))
    ended(first, session_id)
    await first.settle()


async def test_after_its_turn_a_session_goes_to_whoever_asks(ledger, clock, session_id) -> None:
    first = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    second = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    for expected, live in enumerate([first, second, first, first], 1):
        assert await started(live, session_id) == expected
        ended(live, session_id)
        await live.settle()
    assert (await ledger.get_session(session_id, "")).lease_until_us == 0


async def test_a_late_release_does_not_end_the_next_turns_lease(ledger, clock, session_id) -> None:
    live = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    await started(live, session_id)
    ended(live, session_id)
    await started(live, session_id)
    await live.settle()
    with pytest.raises(LeaseHeld):
        await ledger.take_over(session_id, "another")
    ended(live, session_id)
    await live.settle()


async def test_a_dead_process_blocks_its_session_no_longer_than_its_lease(
    ledger, clock, session_id
) -> None:
    dead = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    await started(dead, session_id)
    dead._keepers.pop(session_id).cancel()
    heir = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    with pytest.raises(LeaseHeld) as refused:
        await started(heir, session_id)
    ended(heir, session_id)
    assert refused.value.retry_after_ms == LEASE_SECONDS * 1000
    await clock.advance(LEASE_SECONDS, ledger)
    assert await started(heir, session_id) == 2
    ended(heir, session_id)
    await heir.settle()


async def test_a_keeper_stops_once_another_has_taken_over(ledger, clock, session_id) -> None:
    live = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    epoch = await started(live, session_id)
    await ledger.take_over(session_id, "another", 100.0, force=True)
    keeper = live._keepers[session_id]
    await clock.advance(LEASE_SECONDS / 2, ledger)
    await asyncio.wait_for(keeper, 20)
    with pytest.raises(StaleEpoch):
        await ledger.begin_turn(session_id, epoch, 0, NewTurn("late", (1,)))
    ended(live, session_id)
    await live.settle()
    assert (await ledger.get_session(session_id, "")).holder == "another"


async def test_who_is_alone_goes_on_at_once_after_a_restart(ledger, clock, session_id) -> None:
    dead = LiveSessions(ledger)
    assert await started(dead, session_id) == 1
    heir = LiveSessions(ledger)
    assert not heir.runs_turn(await ledger.get_session(session_id, ""))
    assert await started(heir, session_id) == 2
    ended(heir, session_id)
    await heir.settle()
    assert (await ledger.get_session(session_id, "")).lease_until_us == 0


@pytest.mark.parametrize("lease_seconds", [None, LEASE_SECONDS])
async def test_a_session_does_not_expire_while_its_turn_runs(
    ledger, clock, lease_seconds: float | None
) -> None:
    """Not when its reader pauses, and not before its prompt is written."""
    session = await ledger.create_session("", "model", 2)
    live = LiveSessions(ledger, lease_seconds, clock.sleep)
    epoch = await started(live, session.session_id)
    for prompt in ((1,), ()):
        for _ in range(10):
            await asyncio.sleep(0)  # a keeper that begins
            await clock.advance(LEASE_SECONDS / 3, ledger)
            assert await ledger.sweep() == 0
        if prompt:
            turn = NewTurn("first", prompt)
            await ledger.begin_turn(session.session_id, epoch, 0, turn)
    await ledger.finish_turn(session.session_id, epoch, 0, FinishReason.LENGTH)
    ended(live, session.session_id)
    await live.settle()
    await clock.advance(1, ledger)
    assert await ledger.sweep() == 0
    await clock.advance(1, ledger)
    assert await ledger.sweep() == 1


async def test_a_turn_that_was_taken_over_frees_and_forgets_nothing(
    ledger, clock, session_id
) -> None:
    live = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    old = live.claim(session_id)
    epoch = await live.epoch(session_id)
    new, later = await live.take_over(session_id)
    assert later == epoch + 1
    live.lost(session_id, epoch, StaleEpoch("late", later))
    live.free(old)
    assert live.is_running(session_id)
    assert await live.epoch(session_id) == later
    live.free(new)
    await live.settle()
    assert not live.is_running(session_id)


async def test_attaching_takes_a_session_from_a_process_that_still_holds_it(
    ledger, clock, session_id
) -> None:
    first = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    second = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    epoch = await started(first, session_id)
    claim, later = await second.take_over(session_id)
    with pytest.raises(StaleEpoch):
        await ledger.begin_turn(session_id, epoch, 0, NewTurn("late", (1,)))
    await ledger.begin_turn(session_id, later, 0, NewTurn("first", (1,)))
    ended(first, session_id)
    second.free(claim)
    await first.settle()
    await second.settle()


async def test_a_session_runs_a_turn_where_its_lease_is(ledger, clock, session_id) -> None:
    first = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    second = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    await started(first, session_id)
    for live, words in ((first, "cancel it"), (second, "another session service")):
        record = await ledger.get_session(session_id, "")
        assert live.runs_turn(record)
        with pytest.raises(TurnRunning, match=words):
            live.check_idle(record)
    ended(first, session_id)
    assert record.is_held
    assert not first.runs_turn(record), "the lease is its own, and is being released"
    first.check_idle(record)
    await first.settle()
    assert not second.runs_turn(await ledger.get_session(session_id, ""))


async def test_a_lease_of_a_dead_process_runs_out(ledger, clock, session_id) -> None:
    await ledger.take_over(session_id, "dead", LEASE_SECONDS)
    live = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    assert live.runs_turn(await ledger.get_session(session_id, ""))
    await clock.advance(LEASE_SECONDS, ledger)
    live.check_idle(await ledger.get_session(session_id, ""))


async def test_a_service_that_ends_waits_for_turns_that_were_cut_off(
    ledger: SqliteLedger, session_id: str
) -> None:
    live = LiveSessions(ledger)
    claim = live.claim(session_id)
    await live.epoch(session_id)
    settling = asyncio.create_task(live.settle())
    await asyncio.sleep(0)
    assert not settling.done()
    live.free(claim)
    await settling
    assert not (await ledger.get_session(session_id, "")).is_held


async def test_what_answers_after_the_session_ended_here_renews_no_lease(
    ledger, clock, session_id
) -> None:
    """A turn was taken over in its own process, and who took it has ended, before its write answers."""
    live = LiveSessions(ledger, LEASE_SECONDS, clock.sleep)
    overtaken = await started(live, session_id)
    claim, _ = await live.take_over(session_id)
    await live.give_back(claim)
    live.moved(session_id, overtaken)
    assert not live._keepers
    assert session_id not in live._epochs
    await started(LiveSessions(ledger, LEASE_SECONDS, clock.sleep), session_id)
