"""The n-gram drafter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.core.types import TokenSource
from outrider_server.speculation.confidence import Confidence
from outrider_server.speculation.ngram import NgramDrafter
from outrider_server.speculation.suffix_index import Match, SuffixIndex

TOKEN = st.integers(0, 2)
TOKENS = st.lists(TOKEN, max_size=8) | st.lists(TOKEN, min_size=20, max_size=40)


@given(TOKENS, st.lists(st.integers(1, 6), max_size=12))
def test_a_drafter_that_was_told_equals_one_opened_with_all_tokens(
    tokens: list[int], sizes: list[int]
) -> None:
    told, start = NgramDrafter(()), 0
    for size in [*sizes, len(tokens)]:
        told.commit(start, tokens[start : start + size])
        start = min(start + size, len(tokens))
        fresh = NgramDrafter(tokens[:start])
        assert told.match() == fresh.match()
        assert told.propose(start, 5) == fresh.propose(start, 5)


def test_a_match_at_the_end_extends_itself() -> None:
    drafter = NgramDrafter([1, 2, 3, 1, 2, 3, 1, 2])
    assert drafter.propose(8, 7).tokens == (3, 1, 2, 3, 1, 2, 3)
    assert NgramDrafter([4, 4, 4]).propose(3, 4).tokens == (4, 4, 4, 4)


@given(TOKENS, st.integers(0, 9))
def test_a_proposal_is_as_long_as_asked_or_empty(tokens: list[int], maximum: int) -> None:
    proposal = NgramDrafter(tokens).propose(len(tokens), maximum)
    assert len(proposal.tokens) == (maximum if tokens[-1:] and tokens[-1] in tokens[:-1] else 0)
    assert proposal.source is TokenSource.NGRAM


async def test_taking_is_proposing() -> None:
    drafter = NgramDrafter([4, 5, 4])
    assert await drafter.take(3, 2, 2) == drafter.propose(3, 2)


def test_another_position_than_the_sessions_end_gets_nothing() -> None:
    drafter = NgramDrafter([4, 4, 4])
    assert drafter.propose(2, 4).tokens == drafter.propose(4, 4).tokens == ()


@pytest.mark.parametrize("start", [0, 1, 3])
def test_a_commit_with_a_gap_is_refused(start: int) -> None:
    drafter = NgramDrafter([4, 5])
    with pytest.raises(ValueError, match="without a gap"):
        drafter.commit(start, [4])
    assert drafter.match() == Match()


def test_an_index_of_an_earlier_turn_is_taken_over_and_made_to_fit() -> None:
    index = SuffixIndex([1, 2, 3, 9, 9])
    drafter = NgramDrafter([1, 2, 3, 1, 2], index)
    assert drafter.match() == Match(2, 2)
    drafter.commit(5, [3])
    assert len(index) == 6, "the same index grew, no copy of it"


def test_decided_tokens_teach_the_chance_of_their_match() -> None:
    """After 1 the tokens differ each time; after 1 2 the same came again."""
    learnt, untouched = Confidence(), Confidence()
    NgramDrafter([1, 2, 5, 1], confidence=learnt).commit(4, [2, 5])
    assert learnt.of_match(1) > untouched.of_match(1)
    assert learnt.of_match(2) > untouched.of_match(2)
    wrong = Confidence()
    NgramDrafter([1, 2, 5, 1], confidence=wrong).commit(4, [7, 8])
    assert wrong.of_match(1) < untouched.of_match(1)
    for length in range(2, 40):
        assert wrong.of_match(length) == untouched.of_match(length), "7 is new: nothing was guessed"


def test_a_prompt_teaches_nothing() -> None:
    assert NgramDrafter([1, 2] * 9).confidence.of_match(1) == Confidence().of_match(1)


def test_what_is_expected_follows_from_the_match() -> None:
    assert NgramDrafter([1, 2, 3]).expected(4) == 0
    drafter = NgramDrafter([1, 2, 3, 1, 2])
    assert drafter.expected(4) == Confidence().expected_of_match(2, 4) > 0
