"""The draft's job over a real engine; how its branches agree with the session's is in `test_branches.py`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from models_for_tests import VOCABULARY_SIZE, tiny_engine, tiny_limits, tiny_llama
from outrider_server.core.errors import (
    InvalidRequest,
    NonFiniteLogits,
    OutriderError,
    PositionMismatch,
    StaleEpoch,
)
from outrider_server.core.types import Draw, Proposal, SamplingParams
from outrider_server.engine.drafting import DraftJob
from outrider_server.engine.engine import Engine

LIMITS = tiny_limits(max_context_tokens=40, width=2)
ENGINE = tiny_engine(limits=LIMITS)
PROMPT = tuple(range(3, 15))
DRAW = Draw(SamplingParams(temperature=0.9), 21, len(PROMPT))


class Stream:
    """A job and what came of it."""

    def __init__(
        self,
        name: str,
        length: int = len(PROMPT),
        lead: int = 4,
        engine: Engine = ENGINE,
        burst: int = 1,
    ):
        self.engine = engine
        opened = engine.open(name, 1, length, DRAW)
        self.slot, self.held = opened.slot, opened.length
        self.emitted: list[tuple[int, Proposal]] = []
        self.seconds: list[float] = []
        self.errors: list[OutriderError] = []
        self.job = DraftJob(
            engine,
            opened.slot,
            opened.opening,
            length,
            lead,
            self.emit,
            self.errors.append,
            burst,
        )

    def emit(self, branch: int, proposal: Proposal, seconds: float) -> None:
        self.emitted.append((branch, proposal))
        self.seconds.append(seconds)

    def run(self, steps: int = 99) -> tuple[int, ...]:
        """Steps until there is nothing to do; returns the tokens emitted by these steps."""
        before = len(self.emitted)
        while steps and not self.job.done and (work := self.job.work()) is not None:
            steps -= 1
            row = (self.slot, work.start_position, work.tokens)
            if work.prefill:
                self.engine.prefill(*row)
                self.job.take(work, None, 1, 0.0)
            else:
                self.job.take(work, self.engine.decide([row]).rows[0], 1, 0.25)
        return tuple(token for _, proposal in self.emitted[before:] for token in proposal.tokens)

    def close(self) -> None:
        self.job.end()
        self.engine.table.close(self.slot, self.slot.opening)


def drafted(tokens: Sequence[int], count: int) -> tuple[int, ...]:
    """What the draft writes after these tokens, from scratch."""
    stream = Stream("from scratch", len(tokens), count)
    stream.job.commit(0, tokens)
    got = stream.run()
    stream.close()
    return got


GUESSES = drafted(PROMPT, 20)


def other(token: int) -> int:
    return (token + 1) % VOCABULARY_SIZE


def test_nothing_is_guessed_before_the_whole_context_is_told() -> None:
    stream = Stream("a")
    assert stream.run() == ()
    stream.job.commit(0, PROMPT[:5])
    assert stream.run() == ()
    stream.job.commit(5, PROMPT[5:])
    assert stream.run() == GUESSES[:4]
    assert [branch for branch, _ in stream.emitted] == [0] * 4
    assert [proposal.start_position for _, proposal in stream.emitted] == [12, 13, 14, 15]
    stream.close()


@pytest.mark.parametrize("lead", [1, 3, 9])
def test_the_draft_runs_ahead_to_its_lead_and_no_further(lead: int) -> None:
    stream = Stream("b", lead=lead)
    stream.job.commit(stream.held, PROMPT[stream.held :])
    assert stream.run() == GUESSES[:lead]
    stream.job.commit(12, GUESSES[:1])
    assert stream.run() == GUESSES[lead : lead + 1]
    stream.close()


def test_the_draft_stops_at_the_end_of_its_context() -> None:
    stream = Stream("c", lead=64)
    stream.job.commit(0, PROMPT)
    assert len(stream.run()) == LIMITS.max_context_tokens - len(PROMPT)
    stream.close()


def test_a_contradiction_rolls_back_and_goes_on_from_what_was_decided() -> None:
    stream = Stream("d")
    stream.job.commit(0, PROMPT)
    stream.run()
    decided = (GUESSES[0], other(GUESSES[1]))
    stream.job.commit(12, decided)
    assert stream.run() == drafted(PROMPT + decided, 4)
    assert {branch for branch, _ in stream.emitted[4:]} == {1}
    assert stream.emitted[4][1].start_position == 14
    stream.close()


def test_each_contradiction_is_one_branch_and_agreement_none() -> None:
    stream, tokens = Stream("e"), list(PROMPT)
    stream.job.commit(0, PROMPT)
    for turn in range(6):
        guesses = stream.run()[-2:] if turn == 0 else None
        own = stream.job._tokens[len(tokens)]
        decided = [own if turn % 2 else other(own), 1, 2] if turn % 2 == 0 else [own]
        stream.job.commit(len(tokens), decided)
        tokens += decided
        assert stream.job._branch == turn // 2 + 1
        assert guesses is None or len(guesses) == 2
        stream.run()
    stream.close()


def test_commits_beyond_the_guesses_are_taken_without_a_branch() -> None:
    stream = Stream("f", lead=1)
    stream.job.commit(0, PROMPT)
    stream.run()
    decided = (GUESSES[0], 7, 8, 9)
    stream.job.commit(12, decided)
    assert stream.run() == drafted(PROMPT + decided, 1)
    assert stream.emitted[-1][0] == 0
    stream.close()


def test_a_slot_that_holds_other_tokens_is_corrected_before_the_first_guess() -> None:
    """The session's digest differs, so it sends everything; what stood there was never a guess."""
    first = Stream("g")
    first.job.commit(0, tuple(other(token) for token in PROMPT))
    first.run()
    first.close()
    stream = Stream("g")
    assert stream.held == len(PROMPT)
    assert stream.run() == ()
    stream.job.commit(0, PROMPT)
    assert stream.run() == GUESSES[:4]
    assert {branch for branch, _ in stream.emitted} == {0}
    stream.close()


def test_ending_keeps_the_committed_tokens_and_drops_the_guesses() -> None:
    """Guesses left in the slot would stand where the next turn's input belongs."""
    stream = Stream("h")
    stream.job.commit(0, PROMPT)
    stream.run()
    stream.job.commit(12, GUESSES[:2])
    stream.run()
    stream.close()
    assert stream.slot.tokens == [*PROMPT, *GUESSES[:2]]
    assert stream.job.done
    following = Stream("h", length=20)
    assert following.held == 14
    stream.close()
    assert following.slot.tokens == [*PROMPT, *GUESSES[:2]]
    following.close()


@pytest.mark.parametrize(
    ("start", "tokens", "error"),
    [
        (1, (1,), PositionMismatch),
        (-1, (1,), PositionMismatch),
        (0, (VOCABULARY_SIZE,), InvalidRequest),
        (0, (-1,), InvalidRequest),
        (0, (1,) * 41, InvalidRequest),
    ],
)
def test_a_commit_that_cannot_be_ends_the_job_with_its_error(
    start: int, tokens: tuple[int, ...], error: type[OutriderError]
) -> None:
    stream = Stream("i", length=0)
    stream.job.commit(start, tokens)
    assert stream.job.done
    assert [type(found) for found in stream.errors] == [error]
    stream.close()


def test_a_stream_that_was_taken_over_drafts_no_more() -> None:
    old = Stream("j")
    old.job.commit(old.held, PROMPT)
    new = Stream("j")
    with pytest.raises(StaleEpoch):
        old.job.work()
    old.job.end()
    new.job.commit(0, PROMPT)
    assert new.run() == GUESSES[:4]
    new.close()


def messages(stream: Stream) -> list[int]:
    """How many guesses came in each message."""
    return [len(proposal.tokens) for _, proposal in stream.emitted]


def test_a_lead_of_nothing_rests_until_a_commit_says_otherwise() -> None:
    stream = Stream("l")
    stream.job.commit(0, PROMPT, lead=0)
    assert stream.run() == ()
    stream.job.commit(12, GUESSES[:1])
    assert stream.run() == (), "a commit that says nothing of the lead changes nothing"
    stream.job.commit(13, GUESSES[1:2], lead=3, burst=1)
    assert stream.run() == GUESSES[2:5]
    stream.close()


def test_a_draft_that_is_told_to_rest_stops_where_it_is() -> None:
    stream = Stream("m", lead=9)
    stream.job.commit(stream.held, PROMPT[stream.held :])
    while len(stream.emitted) < 3:
        stream.run(steps=1)
    stream.job.commit(12, (), lead=0)
    assert stream.run() == ()
    stream.job.commit(12, (), lead=5)
    assert stream.run() == GUESSES[3:5]
    stream.close()


def test_guesses_are_gathered_to_bursts_and_the_leads_end_sends_the_rest() -> None:
    stream = Stream("n", lead=7, burst=3)
    stream.job.commit(0, PROMPT)
    assert stream.run() == GUESSES[:7]
    assert messages(stream) == [3, 3, 1]
    stream.close()


@pytest.mark.parametrize(
    "pace", [{"lead": 0}, {"lead": 2}, {"burst": 2}, {"burst": 1}, {"lead": 5, "burst": 2}]
)
def test_what_was_gathered_is_sent_once_a_new_pace_makes_it_enough(pace: dict[str, int]) -> None:
    """The session may wait for these, and the draft has no step to come that would send them."""
    stream = Stream("o", lead=9, burst=9)
    stream.job.commit(0, PROMPT)
    while len(stream.job._tokens) < len(PROMPT) + 2:
        stream.run(steps=1)
    assert stream.emitted == []
    stream.job.commit(12, (), **pace)
    assert stream.emitted == [(0, Proposal(12, GUESSES[:2]))]
    stream.close()


def test_commits_joined_after_a_rest_are_one_contradiction_at_most() -> None:
    """The session drops all its guesses at the first wrong one; so must the draft, once."""
    stream = Stream("q")
    stream.job.commit(0, PROMPT)
    stream.run()
    decided = (GUESSES[0], other(GUESSES[1]), other(GUESSES[2]), 7, 8, 9)
    stream.job.commit(12, decided, lead=2, burst=1)
    assert stream.run() == drafted(PROMPT + decided, 2)
    assert [branch for branch, _ in stream.emitted[4:]] == [1, 1]
    stream.close()


def test_a_guess_that_was_gathered_and_never_sent_ends_no_branch() -> None:
    stream = Stream("r", lead=9, burst=9)
    stream.job.commit(0, PROMPT)
    while len(stream.job._tokens) < len(PROMPT) + 2:
        stream.run(steps=1)
    stream.job.commit(12, (other(GUESSES[0]),), lead=1, burst=1)
    stream.run()
    assert [branch for branch, _ in stream.emitted] == [0]
    stream.close()


def test_a_message_tells_the_time_of_its_own_guesses() -> None:
    stream = Stream("s", lead=6, burst=2)
    stream.job.commit(0, PROMPT)
    stream.run()
    assert messages(stream) == [2, 2, 2]
    assert stream.seconds[1:] == [0.5, 0.5]
    stream.close()


def test_no_number_ends_the_job_and_drops_what_the_slot_holds() -> None:
    model = tiny_llama()
    engine = tiny_engine(model, LIMITS)
    model.model.embed_tokens.weight.data[13] = torch.nan
    stream = Stream("k", length=2, engine=engine)
    stream.job.commit(0, (1, 13))
    assert stream.run() == ()
    assert [type(found) for found in stream.errors] == [NonFiniteLogits]
    assert stream.slot.tokens == []
    assert all(
        layer.values[stream.slot.index].isfinite().all()
        for layer in engine.runner.forward.cache.layers
    )
