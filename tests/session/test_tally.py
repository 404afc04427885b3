"""A turn's summary: every measured time under its own name."""

from __future__ import annotations

from outrider_server.core.costs import GuessCost, RoundCost
from outrider_server.core.types import FinishReason, Round, TokenSource
from outrider_server.rpc.telemetry import TurnMetrics
from outrider_server.session.tally import Tally, TurnStarted
from outrider_server.session.wire import summary_to_proto

STARTED = TurnStarted("one", prompt_tokens=5, start_position=5, seed=3)
SOURCES = (TokenSource.DRAFT, TokenSource.TARGET)


def a_round(start: int, cost: RoundCost) -> Round:
    return Round(start, (1, 2), ("a", "b"), SOURCES, (), proposed=3, agreed=1, context=1, cost=cost)


def test_what_the_turn_spent_reaches_the_message_under_its_own_name() -> None:
    tally = Tally(TurnMetrics(), lambda: 0.0)
    guesses = (GuessCost(3, 6.0, 9.0), GuessCost(1, 2.0, None))
    tally.add(a_round(5, RoundCost(100.0, 20.0, 30.0, None, 16.0, guesses)))
    tally.add(a_round(7, RoundCost(25.0, 20.0, 0.0, 40.0, 4.0, (GuessCost(1, 2.0, 5.0),))))
    message = summary_to_proto(tally.summary(FinishReason.LENGTH, STARTED, "")).summary
    assert (message.verify_ms, message.target_ms) == (125.0, 70.0)
    assert (message.draft_ms, message.guessed, message.draft_wait_ms) == (10.0, 5, 20.0)


def test_only_what_was_verified_counts_as_proposed() -> None:
    """A round says what of its proposal the target took; the sum is the summary's."""
    tally = Tally(TurnMetrics(), lambda: 0.0)
    for start in (5, 7):
        tally.add(a_round(start, RoundCost()))
    summary = tally.summary(FinishReason.LENGTH, STARTED, "the draft went away")
    assert (summary.rounds, summary.proposed, summary.accepted, summary.tokens) == (2, 6, 2, 4)
    assert (summary.position, summary.degraded) == (9, True)


def test_times_are_the_clocks_since_the_request_arrived() -> None:
    times = iter((100.0, 100.25, 101.5))
    tally = Tally(TurnMetrics(), lambda: next(times))
    tally.add(a_round(5, RoundCost()))
    summary = tally.summary(FinishReason.LENGTH, STARTED, "")
    assert (summary.ttft_ms, summary.duration_ms) == (250.0, 1500.0)


def test_a_turn_that_was_only_told_again_spent_nothing() -> None:
    summary = Tally(TurnMetrics(), lambda: 0.0).summary(FinishReason.LENGTH, STARTED, "")
    assert (summary.target_ms, summary.verify_ms, summary.guessed) == (0.0, 0.0, 0)
