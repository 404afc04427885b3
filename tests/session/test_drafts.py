"""The circuit breaker before a draft."""

from outrider_server.session.peers.drafts import FIRST_REST_SECONDS, LONGEST_REST_SECONDS, Breaker


def test_a_draft_that_proposes_is_always_let_through() -> None:
    breaker = Breaker()
    for now in range(5):
        assert breaker.lets_through(now)
        breaker.enter()
        breaker.succeeded()


def test_after_a_turn_in_vain_it_rests_and_one_turn_tries_it() -> None:
    breaker = Breaker()
    breaker.enter()
    breaker.failed(10.0)
    assert not breaker.lets_through(10.0 + FIRST_REST_SECONDS - 0.01)
    assert breaker.lets_through(10.0 + FIRST_REST_SECONDS)
    breaker.enter()
    assert not breaker.lets_through(100.0), "one at a time"
    breaker.succeeded()
    assert breaker.lets_through(100.0)
    assert breaker.rest_seconds == FIRST_REST_SECONDS


def test_rests_double_up_to_a_limit() -> None:
    breaker, now, rests = Breaker(), 0.0, []
    for _ in range(8):
        breaker.enter()
        breaker.failed(now)
        rests.append(breaker.rests_until - now)
        now = breaker.rests_until
    assert rests[:4] == [1.0, 2.0, 4.0, 8.0]
    assert rests[-1] == LONGEST_REST_SECONDS


def test_turns_that_gave_up_together_count_once() -> None:
    breaker = Breaker()
    for _ in range(3):
        breaker.enter()
    for _ in range(3):
        breaker.failed(5.0)
    assert breaker.rests_until == 5.0 + FIRST_REST_SECONDS
    assert breaker.rest_seconds == 2 * FIRST_REST_SECONDS


def test_a_trial_that_learnt_nothing_leaves_room_for_the_next() -> None:
    breaker = Breaker()
    breaker.enter()
    breaker.failed(0.0)
    breaker.enter()
    breaker.left()
    assert breaker.lets_through(FIRST_REST_SECONDS)
