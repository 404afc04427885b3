"""The session's half of the agreement on which guesses still count; `engine/test_branches.py` joins both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.speculation.guesses import Guesses


def test_guesses_wait_in_order_and_are_peeked_not_taken() -> None:
    guesses = Guesses((7, 8))
    guesses.receive(0, 2, (1, 2))
    guesses.receive(0, 4, (3,))
    assert guesses.peek(2) == (1, 2)
    assert guesses.peek(9) == (1, 2, 3)
    assert (len(guesses), guesses.position) == (3, 2)


def test_a_repeated_or_overlapping_proposal_adds_only_what_is_new() -> None:
    guesses = Guesses((7,))
    guesses.receive(0, 1, (1, 2))
    guesses.receive(0, 1, (1, 2, 3))
    assert guesses.peek(9) == (1, 2, 3)


def test_a_proposal_beyond_a_gap_is_dropped() -> None:
    guesses = Guesses((7,))
    guesses.receive(0, 3, (1,))
    assert len(guesses) == 0


def test_confirmed_guesses_leave_the_others_waiting() -> None:
    guesses = Guesses((7,))
    guesses.receive(0, 1, (1, 2, 3))
    guesses.commit(1, (1, 2))
    assert (guesses.branch, guesses.position, guesses.peek(9)) == (0, 3, (3,))


def test_one_contradicted_commit_ends_one_branch() -> None:
    guesses = Guesses((7,))
    guesses.receive(0, 1, (1, 2, 3))
    guesses.commit(1, (1, 9, 8, 7))
    assert (guesses.branch, guesses.position, len(guesses)) == (1, 5, 0)
    guesses.receive(0, 4, (4,))
    assert len(guesses) == 0, "made before the draft knew"
    guesses.receive(1, 5, (5,))
    assert guesses.peek(1) == (5,)


def test_a_guess_that_comes_after_its_position_was_decided_is_still_compared() -> None:
    guesses = Guesses((7,))
    guesses.commit(1, (1, 2))
    guesses.receive(0, 1, (1,))
    assert guesses.branch == 0
    guesses.receive(0, 2, (3, 4))
    assert (guesses.branch, len(guesses)) == (1, 0)


def test_a_late_proposal_that_was_right_brings_its_tail() -> None:
    guesses = Guesses((7,))
    guesses.commit(1, (1, 2))
    guesses.receive(0, 1, (1, 2, 3, 4))
    assert (guesses.branch, guesses.peek(9)) == (0, (3, 4))


@pytest.mark.parametrize("start", [0, 2])
def test_a_commit_with_a_gap_is_refused_and_changes_nothing(start: int) -> None:
    guesses = Guesses((7,))
    guesses.receive(0, 1, (1,))
    with pytest.raises(ValueError, match="without a gap"):
        guesses.commit(start, (5,))
    assert (guesses.branch, guesses.position, guesses.peek(9)) == (0, 1, (1,))


def test_guesses_are_counted_once_they_meet_a_decided_token_and_told_once() -> None:
    guesses = Guesses((7,))
    guesses.receive(0, 1, (1, 2, 3))
    assert guesses.compared() == (0, 0), "nothing is decided yet"
    guesses.commit(1, (1, 2))
    assert guesses.compared() == (2, 2)
    assert guesses.compared() == (0, 0)


def test_a_wrong_guess_is_counted_once_and_what_followed_it_never() -> None:
    guesses = Guesses((7,))
    guesses.receive(0, 1, (1, 2, 3, 4))
    guesses.commit(1, (1, 9, 3, 4))
    assert guesses.compared() == (2, 1)
    guesses.receive(0, 5, (5,))
    guesses.commit(5, (6,))
    assert guesses.compared() == (0, 0), "a guess of an ended branch tells nothing"


def test_late_guesses_are_counted_up_to_the_first_wrong_one() -> None:
    """So a draft is judged although nobody waited for it."""
    guesses = Guesses((7,))
    guesses.commit(1, (1, 2, 3, 4))
    guesses.receive(0, 1, (1, 2))
    assert guesses.compared() == (2, 2)
    guesses.receive(0, 3, (9, 4, 5))
    assert guesses.compared() == (1, 0)
    assert len(guesses) == 0


def test_a_guess_in_time_and_a_late_one_are_counted_alike() -> None:
    guesses = Guesses((7,))
    guesses.receive(0, 1, (1,))
    guesses.commit(1, (1, 2))
    guesses.receive(0, 2, (2, 3))
    guesses.commit(3, (3,))
    assert guesses.compared() == (3, 3)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.data())
def test_each_guess_is_counted_once_whether_it_comes_before_or_after_its_token(
    truth: list[int], data: st.DataObject
) -> None:
    """Messages and commits cut the text anywhere and cross in any order."""
    guesses, sent, decided = Guesses((7,)), 0, 0
    compared = 0
    while decided < len(truth):
        if sent < len(truth) and data.draw(st.booleans()):
            end = data.draw(st.integers(sent + 1, len(truth)))
            guesses.receive(0, 1 + sent, truth[sent:end])
            sent = end
        else:
            end = data.draw(st.integers(decided + 1, len(truth)))
            guesses.commit(1 + decided, truth[decided:end])
            decided = end
        counted, agreed = guesses.compared()
        assert counted == agreed, "every guess is right"
        compared += counted
        assert compared == min(sent, decided)
