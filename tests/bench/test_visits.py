"""Who takes a turn when, and where a turn found its session's KV."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_bench.visits import Kind, SlotMirror, classify, plan_visits
from outrider_server.engine.slots import SlotTable


@pytest.mark.parametrize("seed", range(5))
def test_every_session_has_all_its_turns(seed: int) -> None:
    taken: Counter[int] = Counter()
    for visit in plan_visits(40, 3, seed):
        taken[visit.session] += visit.turns
    assert taken == Counter(dict.fromkeys(range(40), 3))


def test_some_turns_follow_each_other_and_most_do_not() -> None:
    together = [visit.turns for visit in plan_visits(200, 3, 1)]
    assert set(together) == {1, 2}
    assert 0 < together.count(2) < together.count(1)


def test_the_order_is_the_seeds() -> None:
    assert plan_visits(40, 3, 7) == plan_visits(40, 3, 7)
    assert plan_visits(40, 3, 7) != plan_visits(40, 3, 8)


@pytest.mark.parametrize(
    ("held", "new", "prefilled", "in_slot", "kind"),
    [
        (0, 33, 33, False, Kind.FIRST),
        (60, 16, 17, True, Kind.RESIDENT),
        (60, 16, 16, True, Kind.RESIDENT),
        (60, 16, 17, False, Kind.RESTORED),
        (60, 16, 76, False, Kind.REBUILT),
        (60, 16, 76, True, Kind.REBUILT),
        (60, 16, 18, True, Kind.PARTLY),
        (60, 16, 70, False, Kind.PARTLY),
    ],
)
def test_a_turn_is_told_by_what_it_read(
    held: int, new: int, prefilled: int, in_slot: bool, kind: Kind
) -> None:
    assert classify(held, new, prefilled, in_slot) is kind


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40), st.integers(1, 3))
def test_the_mirror_follows_the_targets_own_table(
    openings: list[tuple[int, bool]], slots: int
) -> None:
    """Sessions open in some order, and close at once or when every slot is open."""
    mirror, table = SlotMirror(slots), SlotTable(slots)
    opened = {}
    for session, closes_at_once in openings:
        if session in opened:
            continue
        if len(opened) == slots:
            for each, slot in opened.items():
                table.close(slot, slot.opening)
                mirror.close(each)
            opened.clear()
        had = table.holds(str(session))
        slot = table.open(str(session), 1)
        assert mirror.open(session) == had
        if closes_at_once:
            table.close(slot, slot.opening)
            mirror.close(session)
        else:
            opened[session] = slot
