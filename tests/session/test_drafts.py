"""The circuit breaker before a draft."""

from __future__ import annotations

from outrider_server.session.peers.drafts import FIRST_REST_SECONDS, LONGEST_REST_SECONDS, Breaker


def test_a_draft_that_proposes_is_used_by_all() -> None:
    breaker = Breaker()
    for now in (0.0, 1.0, 2.0):
        assert breaker.lets_through(now)
        breaker.enter(now)
        breaker.succeeded(now)


def test_after_a_turn_in_vain_it_rests_and_a_single_turn_tries_it() -> None:
    breaker = Breaker()
    breaker.enter("first")
    breaker.failed("first", 10.0)
    assert not breaker.lets_through(10.0 + FIRST_REST_SECONDS - 0.01)
    assert breaker.lets_through(10.0 + FIRST_REST_SECONDS)
    breaker.enter("trial")
    assert not breaker.lets_through(100.0), "one at a time"
    breaker.succeeded("trial")
    assert breaker.lets_through(100.0)
    assert breaker.rest_seconds == FIRST_REST_SECONDS


def test_it_rests_longer_after_each_trial_in_vain() -> None:
    breaker, now, rests = Breaker(), 0.0, []
    for trial in range(8):
        breaker.enter(trial)
        breaker.failed(trial, now)
        assert breaker.rests_until is not None
        rests.append(breaker.rests_until - now)
        now = breaker.rests_until
    assert rests == [min(2**index, LONGEST_REST_SECONDS) for index in range(8)]


def test_turns_that_wait_at_once_count_as_one() -> None:
    breaker = Breaker()
    for turn in range(5):
        breaker.enter(turn)
    for turn in range(5):
        breaker.failed(turn, 5.0 + turn)
    assert breaker.rests_until == 5.0 + FIRST_REST_SECONDS
    assert breaker.rest_seconds == 2 * FIRST_REST_SECONDS


def test_a_trial_that_learns_nothing_leaves_the_place_to_the_next() -> None:
    breaker = Breaker()
    breaker.enter("first")
    breaker.failed("first", 0.0)
    breaker.enter("trial")
    breaker.left("trial")
    assert breaker.lets_through(FIRST_REST_SECONDS)


def test_what_older_turns_learn_is_no_outcome_of_the_trial() -> None:
    breaker = Breaker()
    for turn in ("older", "oldest", "first"):
        breaker.enter(turn)
    breaker.failed("first", 0.0)
    breaker.enter("trial")
    breaker.left("older")
    assert not breaker.lets_through(FIRST_REST_SECONDS), "the trial goes on"
    breaker.succeeded("oldest")
    assert not breaker.lets_through(FIRST_REST_SECONDS), "it had guesses before the draft hung"
    breaker.succeeded("trial")
    assert breaker.lets_through(FIRST_REST_SECONDS)
