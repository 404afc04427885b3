"""Turns that wait for a slot."""

from __future__ import annotations

import asyncio

import pytest
from outrider_server.core.errors import SPREAD, Exhausted, InvalidRequest
from outrider_server.core.surroundings import CHANCE
from outrider_server.host.admission import FIRST_HOLD_SECONDS, AdmissionQueue


class Slots:
    """So many slots, a queue before them, and who got in, in order."""

    def __init__(self, slots: int, limit: int) -> None:
        self.free = slots
        self.queue = AdmissionQueue(limit, slots, CHANCE)
        self.entered: list[str] = []

    async def enter(self, name: str, in_place: bool = False) -> str:
        async def attempt() -> str:
            await asyncio.sleep(0)
            if not in_place:
                if not self.free:
                    raise Exhausted("every slot runs a turn")
                self.free -= 1
            self.entered.append(name)
            return name

        return await self.queue.enter(attempt, in_place)

    def leave(self, seconds: float = 1.0) -> None:
        self.free += 1
        self.queue.left(seconds)

    async def waiting(self, *names: str) -> list[asyncio.Task[str]]:
        """Turns that come one after the other, and wait."""
        tasks = []
        for name in names:
            tasks.append(asyncio.create_task(self.enter(name)))
            await settle()
        return tasks


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_turns_get_slots_in_the_order_they_came() -> None:
    slots = Slots(2, 8)
    for name in "ab":
        await slots.enter(name)
    await slots.waiting(*"cdef")
    assert slots.entered == ["a", "b"]
    for _ in range(4):
        slots.leave()
        await settle()
    assert slots.entered == list("abcdef")
    assert len(slots.queue) == 0


async def test_a_newcomer_does_not_pass_those_who_wait() -> None:
    slots = Slots(1, 8)
    await slots.enter("a")
    (first,) = await slots.waiting("b")
    slots.leave()
    second = asyncio.create_task(slots.enter("c"))
    assert await first == "b"
    await settle()
    assert not second.done()
    slots.leave()
    assert await second == "c"


async def test_a_slot_that_frees_while_a_newcomer_is_refused_is_that_ones() -> None:
    """Between the refusal on the device and the place in the queue the newcomer hears nothing."""
    free, queue = False, AdmissionQueue(8, 1, CHANCE)

    async def attempt() -> str:
        nonlocal free
        if free:
            return "entered"
        free = True
        queue.left(1.0)
        raise Exhausted("every slot runs a turn")

    entering = asyncio.create_task(queue.enter(attempt, in_place=False))
    await settle()
    assert entering.done()
    assert await entering == "entered"


async def test_two_slots_that_free_at_once_let_two_in() -> None:
    slots = Slots(2, 8)
    for name in "ab":
        await slots.enter(name)
    tasks = await slots.waiting("c", "d")
    slots.leave()
    slots.leave()
    assert await asyncio.gather(*tasks) == ["c", "d"]


async def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    slots = Slots(2, 3)
    for name in "ab":
        await slots.enter(name)
    await slots.waiting(*"cde")

    async def times_to_wait() -> list[int]:
        times = []
        for _ in range(20):
            with pytest.raises(Exhausted, match="3 wait") as refused:
                await slots.enter("f")
            times.append(refused.value.retry_after_ms)
        return times

    first = await times_to_wait()
    least_ms = FIRST_HOLD_SECONDS * 1000 * 4 / 2
    assert all(least_ms <= time <= least_ms * (1 + SPREAD) for time in first)
    assert len(set(first)) > 1, "all would come back at once"
    for _ in range(60):
        slots.queue.left(0.25)
    assert all(490 < time < 510 * (1 + SPREAD) for time in await times_to_wait())
    assert slots.entered == ["a", "b"]


async def test_without_a_queue_nobody_waits() -> None:
    slots = Slots(1, 0)
    await slots.enter("a")
    with pytest.raises(Exhausted, match="0 wait"):
        await slots.enter("b")


async def test_a_session_that_has_its_slot_does_not_wait() -> None:
    slots = Slots(1, 8)
    await slots.enter("a")
    await slots.waiting("b")
    assert await slots.enter("a again", in_place=True) == "a again"


async def test_one_that_goes_away_gives_its_call_to_the_next() -> None:
    slots = Slots(1, 8)
    await slots.enter("a")
    first, second = await slots.waiting("b", "c")
    slots.leave()
    first.cancel()
    assert await second == "c"
    assert slots.entered == ["a", "c"]
    assert len(slots.queue) == 0


async def test_another_error_ends_the_waiting_and_calls_the_next() -> None:
    slots = Slots(1, 8)
    await slots.enter("a")

    async def refuse() -> None:
        if not slots.free:
            raise Exhausted("every slot runs a turn")
        raise InvalidRequest("epoch", "no")

    refused = asyncio.create_task(slots.queue.enter(refuse, False))
    await settle()
    (next_one,) = await slots.waiting("c")
    slots.leave()
    with pytest.raises(InvalidRequest):
        await refused
    assert await next_one == "c"
