"""A turn's summary: every measured time under its own name."""

from __future__ import annotations

import pytest
from outrider_server.core.types import FinishReason, Round, TokenSource
from outrider_server.pacing.meter import CostMeter, TurnMeter
from outrider_server.rpc.telemetry import TurnMetrics
from outrider_server.session.tally import Tally, TurnStarted
from outrider_server.session.wire import summary_to_proto

STARTED = TurnStarted("one", prompt_tokens=5, start_position=5, seed=3)


def test_what_the_turn_spent_reaches_the_message_under_its_own_name() -> None:
    meter = TurnMeter(CostMeter(8))
    meter.verified(100.0, 20.0, 30.0, proposed=3, verified=2)
    meter.guessed(4, 8.0, None)
    meter.waited(16.0)
    summary = Tally(TurnMetrics(), meter).summary(FinishReason.LENGTH, STARTED, "")
    message = summary_to_proto(summary).summary
    assert (message.verify_ms, message.target_ms) == (100.0, 50.0)
    assert (message.draft_ms, message.guessed, message.draft_wait_ms) == (8.0, 4, 16.0)


def test_only_what_was_verified_counts_as_proposed() -> None:
    """A round says what of its proposal the target took; the sum is the summary's."""
    tally = Tally(TurnMetrics(), TurnMeter(CostMeter(8)))
    sources = (TokenSource.DRAFT, TokenSource.TARGET)
    for start in (5, 7):
        tally.add(Round(start, (1, 2), ("a", "b"), sources, (), proposed=3, agreed=1, context=1))
    summary = tally.summary(FinishReason.LENGTH, STARTED, "the draft went away")
    assert (summary.rounds, summary.proposed, summary.accepted, summary.tokens) == (2, 6, 2, 4)
    assert (summary.position, summary.degraded) == (9, True)


def test_a_turn_that_has_not_ended_has_no_summary() -> None:
    with pytest.raises(AssertionError, match="opened"):
        Tally(TurnMetrics()).summary(FinishReason.LENGTH, STARTED, "")
