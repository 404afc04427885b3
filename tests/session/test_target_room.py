"""A target that has just refused a turn is not asked again at once."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from outrider_server.core.errors import (
    SPREAD,
    Exhausted,
    ModelMismatch,
    ProtocolViolation,
    Unavailable,
)
from outrider_server.session.peers.targets import FULL_SECONDS, Targets, _worth_telling


@dataclass
class Clock:
    """Goes on when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def full(clock: Clock) -> Any:
    """Two targets, each with three turns, that have just refused another one."""
    link: Any = SimpleNamespace(turns=3)
    addresses = ["127.0.0.1:1", "127.0.0.1:2"]
    targets: Any = Targets(addresses, lambda _: copy(link), clock, Random(1))
    for place in targets._pool.members:
        place.refused(Exhausted("every slot runs a turn", 70), clock.now)
    return targets


async def test_the_last_refusal_is_repeated_with_other_times_to_wait(full: Any) -> None:
    times = set()
    for _ in range(20):
        with pytest.raises(Exhausted, match="every slot") as refused:
            full.check_room("new")
        times.add(refused.value.retry_after_ms)
    assert len(times) > 1
    assert all(70 <= time <= 70 * (1 + SPREAD) for time in times)


async def test_not_for_long(full: Any, clock: Clock) -> None:
    for place in full._pool.members:
        place.refused(Exhausted("every slot runs a turn", 60_000), clock.now)
    clock.now += 0.9 * FULL_SECONDS
    with pytest.raises(Exhausted):
        full.check_room("new")
    clock.now += 0.2 * FULL_SECONDS
    full.check_room("new")


async def test_not_for_longer_than_it_said(full: Any, clock: Clock) -> None:
    clock.now += 0.06
    with pytest.raises(Exhausted):
        full.check_room("new")
    clock.now += 0.011
    full.check_room("new")


@pytest.mark.parametrize("place", [0, 1])
async def test_not_where_a_turn_has_ended_since(full: Any, place: int) -> None:
    full._pool.members[place].link.turns = 2
    full.check_room("new")


async def test_not_for_a_session_that_may_have_a_slot(full: Any) -> None:
    full._remember("known", full._pool.members[1])
    full.check_room("known")


async def test_a_target_that_refused_nothing_is_asked(full: Any) -> None:
    full._pool.members[0].refusal = None
    full.check_room("new")


def test_of_several_reasons_the_one_that_time_mends_is_told() -> None:
    reasons = [
        ProtocolViolation("broken"),
        ModelMismatch("another"),
        Unavailable("away"),
        Exhausted("full"),
    ]
    assert min(reasons, key=_worth_telling) is reasons[3]
    assert min(reasons[:3], key=_worth_telling) is reasons[2]
