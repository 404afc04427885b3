"""The state of a turn: what it asks of the verifier, and what it keeps of a verdict."""

from __future__ import annotations

import pytest
from fakes import LengthEnd
from outrider_server.core.types import (
    FinishReason,
    Proposal,
    Round,
    Step,
    TokenLogprobs,
    TokenSource,
    Verdict,
)
from outrider_server.speculation.turn import Turn

TOKENS = (10, 11, 12, 13)


def turn(
    known: int = 0, window: int = 3, max_new_tokens: int = 9, end_token: int | None = None
) -> Turn:
    return Turn(TOKENS, known, window, LengthEnd(max_new_tokens, end_token), max_new_tokens)


def close(turn: Turn, proposal: Proposal, agreed: int, own: int) -> Round:
    step = turn.step(proposal)
    tokens = (*step.proposed_tokens[:agreed], own)
    verdict = Verdict(step.decided_position, agreed, tokens)
    return turn.close_round(step, proposal, verdict)


@pytest.mark.parametrize(
    ("known", "start", "context"),
    [
        (0, 0, (10, 11, 12, 13)),
        (2, 2, (12, 13)),
        (3, 3, (13,)),
        (4, 3, (13,)),
        (9, 3, (13,)),
    ],
)
def test_the_first_step_sends_what_the_verifier_lacks_and_the_last_token_always(
    known: int, start: int, context: tuple[int, ...]
) -> None:
    assert turn(known).step(Proposal(4)) == Step(start, context)


def test_a_turn_needs_a_token_to_continue_from() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        Turn((), 0, 3, LengthEnd(1), 1)


def test_a_proposal_is_cut_to_the_window() -> None:
    step = turn(window=2).step(Proposal(4, (1, 2, 3)))
    assert step.proposed_tokens == (1, 2)


@pytest.mark.parametrize("position", [0, 3, 5, -4])
def test_a_proposal_for_another_position_is_not_sent(position: int) -> None:
    assert turn().step(Proposal(position, (1, 2))).proposed_tokens == ()


@pytest.mark.parametrize("position", [0, 3, 5, -4])
def test_the_chances_of_a_proposal_that_is_not_sent_are_not_sent_either(position: int) -> None:
    """The target refuses a step with more chances than proposals."""
    assert turn().step(Proposal(position, (1, 2), survival=(0.9, 0.8))).survival == ()


def test_chances_are_cut_with_their_proposal() -> None:
    step = turn(window=2).step(Proposal(4, (1, 2, 3), survival=(0.9, 0.8, 0.7)))
    assert (step.proposed_tokens, step.survival) == ((1, 2), (0.9, 0.8))
    assert turn().step(Proposal(4, (1, 2), survival=(0.9,))).survival == (0.9,)


def test_what_was_left_out_of_a_step_is_neither_proposed_nor_the_drafts() -> None:
    """The decided token may equal the first proposal left out: it is the target's all the same."""
    running = turn()
    proposal = Proposal(4, (1, 2, 3))
    step = running.step(proposal)
    decided = running.close_round(step, proposal, Verdict(4, 1, (1, 2), verified=1))
    assert (decided.proposed, decided.agreed, decided.tokens) == (1, 1, (1, 2))
    assert decided.sources == (TokenSource.DRAFT, TokenSource.TARGET)
    assert (running.position, running.step(Proposal(6))) == (6, Step(5, (2,)))


@pytest.mark.parametrize(("remaining", "window"), [(9, 3), (4, 3), (3, 2), (2, 1), (1, 0)])
def test_the_window_leaves_room_for_the_targets_own_token(remaining: int, window: int) -> None:
    assert turn(max_new_tokens=remaining).window == window


def test_a_round_moves_the_turn_and_says_who_wrote_what() -> None:
    running = turn()
    decided = close(running, Proposal(4, (1, 2, 3), TokenSource.NGRAM), agreed=2, own=7)
    assert decided.start_position == 4
    assert decided.tokens == (1, 2, 7)
    assert decided.texts == ("1", "2", "7")
    assert decided.sources == (TokenSource.NGRAM, TokenSource.NGRAM, TokenSource.TARGET)
    assert (decided.proposed, decided.agreed, decided.context) == (3, 2, 4)
    assert (running.position, running.window) == (7, 3)
    assert running.step(Proposal(7)) == Step(6, (7,))


@pytest.mark.parametrize(
    ("end_token", "kept", "agreed"), [(1, (1,), 1), (2, (1, 2), 2), (7, (1, 2, 7), 2)]
)
def test_an_end_inside_a_verdict_drops_what_follows_it(
    end_token: int, kept: tuple[int, ...], agreed: int
) -> None:
    running = turn(end_token=end_token)
    step = running.step(Proposal(4, (1, 2)))
    logprobs = tuple(TokenLogprobs(-float(index)) for index in range(3))
    decided = running.close_round(step, Proposal(4, (1, 2)), Verdict(4, 2, (1, 2, 7), logprobs))
    assert decided.tokens == kept
    assert decided.agreed == agreed
    assert len(decided.sources) == len(decided.texts) == len(decided.logprobs) == len(kept)
    assert decided.finish_reason is running.finish_reason is FinishReason.END_TOKEN
    assert running.position == 4 + len(kept)


def test_the_limit_ends_a_turn_exactly() -> None:
    running = turn(max_new_tokens=3)
    assert close(running, Proposal(4, (1, 2, 3)), agreed=1, own=9).finish_reason is None
    assert running.window == 0
    assert close(running, Proposal(6, (4,)), agreed=0, own=5).finish_reason is FinishReason.LENGTH


def test_a_wrong_verdict_is_refused_and_changes_nothing() -> None:
    running = turn()
    proposal = Proposal(4, (1, 2))
    step = running.step(proposal)
    for wrong in (
        Verdict(5, 0, (9,)),
        Verdict(4, 2, (1, 9, 9)),
        Verdict(4, 3, (1, 2, 3, 4)),
        Verdict(4, -1, ()),
    ):
        with pytest.raises(ValueError, match="does not answer"):
            running.close_round(step, proposal, wrong)
    assert (running.position, running.finish_reason, running.window) == (4, None, 3)
    assert running.step(proposal) == step
    assert running.close_round(step, proposal, Verdict(4, 0, (9,))).texts == ("9",)


def test_tokens_that_n_grams_added_to_a_models_guesses_are_theirs() -> None:
    turn = Turn([1], 0, 4, LengthEnd(10), 10)
    proposal = Proposal(1, (5, 6, 7), TokenSource.DRAFT, continued_from=1)
    step = turn.step(proposal)
    decided = turn.close_round(step, proposal, Verdict(1, 2, (5, 6, 9)))
    assert decided.sources == (TokenSource.DRAFT, TokenSource.NGRAM, TokenSource.TARGET)
