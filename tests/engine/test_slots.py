"""Which session lives in which slot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.core.errors import Exhausted, PositionMismatch, StaleEpoch, TurnRunning
from outrider_server.engine.slots import Slot, SlotTable


def idle(table: SlotTable, session_id: str, epoch: int = 1) -> Slot:
    slot = table.open(session_id, epoch)
    slot.tokens = [1, 2, 3]
    table.close(slot, slot.opening)
    return slot


def test_a_session_comes_back_to_its_slot_and_its_tokens() -> None:
    table = SlotTable(2)
    first = idle(table, "a")
    assert table.open("a", 1) is first
    assert first.tokens == [1, 2, 3]
    assert table.session_count == 1


def test_the_session_idle_longest_makes_room_and_open_ones_stay() -> None:
    table = SlotTable(3)
    first, second = table.open("a", 1), idle(table, "b")
    third = idle(table, "c")
    idle(table, "b")
    newcomer = table.open("d", 1)
    assert newcomer.index == third.index
    assert newcomer.tokens == []
    assert table.open("e", 1).index == second.index
    with pytest.raises(Exhausted, match="every slot"):
        table.open("f", 1)
    assert table.open("a", 1) is first
    assert table.session_count == 3


def test_a_refusal_for_want_of_slots_changes_nothing() -> None:
    table = SlotTable(1)
    slot = table.open("a", 1)
    for _ in range(2):
        with pytest.raises(Exhausted):
            table.open("b", 1)
    table.close(slot, slot.opening)
    assert table.open("b", 1).index == slot.index


def test_a_newer_stream_takes_over_and_the_older_can_do_nothing_more() -> None:
    table = SlotTable(1)
    slot = table.open("a", 1)
    old = slot.opening
    assert table.open("a", 1) is slot
    with pytest.raises(StaleEpoch, match="another stream"):
        slot.check_opening(old)
    slot.check_opening(slot.opening)
    table.close(slot, old)
    assert slot.open, "the one taken over closes nothing"
    table.close(slot, slot.opening)
    assert not slot.open


def test_an_old_epoch_is_refused_with_the_newer_one() -> None:
    table = SlotTable(1)
    slot = table.open("a", 4)
    opening = slot.opening
    for refused in (lambda: table.open("a", 3), lambda: table.release("a", 3)):
        with pytest.raises(StaleEpoch) as error:
            refused()
        assert error.value.current_epoch == 4
    assert (slot.epoch, slot.opening, slot.open) == (4, opening, True)
    assert table.open("a", 9).epoch == 9


def test_who_has_been_idle_longest_loses_its_slot_not_who_was_opened_first() -> None:
    table = SlotTable(2)
    long_turn = table.open("long", 1)
    short = idle(table, "short")
    table.close(long_turn, long_turn.opening)
    assert table.open("new", 1).index == short.index
    assert table.holds("long")


def test_a_stale_owner_does_not_make_its_session_look_used() -> None:
    table = SlotTable(2)
    oldest = idle(table, "a", epoch=5)
    idle(table, "b")
    with pytest.raises(StaleEpoch):
        table.open("a", 1)
    assert table.open("c", 1).index == oldest.index


def test_release_frees_an_idle_slot_only() -> None:
    table = SlotTable(1)
    slot = table.open("a", 1)
    with pytest.raises(TurnRunning):
        table.release("a", 1)
    table.close(slot, slot.opening)
    table.release("a", 1)
    table.release("a", 1)
    assert table.session_count == 0
    assert table.open("b", 1).tokens == []


def test_writing_drops_what_stood_after() -> None:
    slot = Slot(0, "a", 1, [1, 2, 3, 4])
    slot.write(1, (9,))
    assert slot.tokens == [1, 9]


@pytest.mark.parametrize("position", [-1, 4, 100])
def test_a_position_beyond_the_slot_is_refused_with_where_it_stands(position: int) -> None:
    slot = Slot(0, "a", 1, [1, 2, 3])
    for allowed in range(4):
        slot.check_position(allowed)
    with pytest.raises(PositionMismatch) as error:
        slot.check_position(position)
    assert error.value.position == 3


EVENTS = st.lists(
    st.tuples(st.sampled_from(["open", "close", "release"]), st.integers(0, 5)),
    min_size=20,
    max_size=60,
)


@given(EVENTS, st.integers(1, 4))
def test_no_two_sessions_ever_share_a_slot(events: list[tuple[str, int]], size: int) -> None:
    table = SlotTable(size)
    held: dict[str, Slot] = {}
    for event, number in events:
        name = f"s{number}"
        try:
            if event == "open":
                held[name] = table.open(name, 1)
            elif event == "close" and name in held:
                table.close(held[name], held[name].opening)
            elif event == "release":
                table.release(name, 1)
        except (Exhausted, TurnRunning):
            pass
        busy = [slot.index for slot in held.values() if slot.open]
        assert len(busy) == len(set(busy))
        assert table.session_count <= size
