"""The session's half of the agreement on which guesses still count; `engine/test_branches.py` joins both."""

from __future__ import annotations

import pytest
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
