"""The n-gram drafter and the drafter composed of it and the model's."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from fakes import ScriptedDrafter
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.speculation.drafters import CONFIDENT_MATCH, ComposedDrafter, NoDrafter
from outrider_server.speculation.ngram import MAX_MATCH, MIN_MATCH, NgramDrafter
from outrider_server.speculation.types import Proposal, TokenSource

TOKEN = st.integers(0, 2)
TOKENS = st.lists(TOKEN, max_size=8) | st.lists(TOKEN, min_size=20, max_size=40)


def scanned(tokens: Sequence[int]) -> tuple[int, int]:
    """The plain version of `match`: looks through all tokens, latest occurrence of the longest match."""
    for size in range(MAX_MATCH, MIN_MATCH - 1, -1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if list(tokens[end - size : end]) == list(tokens[-size:]):
                return size, end
    return 0, 0


@given(TOKENS)
def test_the_match_is_the_latest_of_the_longest(tokens: list[int]) -> None:
    assert NgramDrafter(tokens).match() == scanned(tokens)


@given(TOKENS, st.lists(st.integers(1, 6), max_size=12))
def test_an_index_that_grew_equals_one_built_from_scratch(
    tokens: list[int], sizes: list[int]
) -> None:
    grown = NgramDrafter(())
    start = 0
    for size in [*sizes, len(tokens)]:
        grown.commit(start, tokens[start : start + size])
        start = min(start + size, len(tokens))
        fresh = NgramDrafter(tokens[:start])
        assert grown.match() == fresh.match()
        assert grown.propose(start, 5) == fresh.propose(start, 5)


@pytest.mark.parametrize("length", range(1, MAX_MATCH + 3))
def test_a_match_is_as_long_as_what_repeats_up_to_the_longest(length: int) -> None:
    tokens = [*range(100, 100 + length), 7, 8, *range(100, 100 + length)]
    size, follower = NgramDrafter(tokens).match()
    if length < MIN_MATCH:
        assert size == 0
    else:
        assert (size, follower) == (min(length, MAX_MATCH), length)


def test_a_match_at_the_end_extends_itself() -> None:
    drafter = NgramDrafter([1, 2, 3, 1, 2, 3, 1, 2])
    assert drafter.propose(8, 7).tokens == (3, 1, 2, 3, 1, 2, 3)
    assert NgramDrafter([4, 4, 4]).propose(3, 4).tokens == (4, 4, 4, 4)


@given(TOKENS, st.integers(0, 9))
def test_a_proposal_is_as_long_as_asked_or_empty(tokens: list[int], maximum: int) -> None:
    proposal = NgramDrafter(tokens).propose(len(tokens), maximum)
    assert len(proposal.tokens) == (maximum if scanned(tokens)[0] else 0)
    assert proposal.source is TokenSource.NGRAM


def test_another_position_than_the_sessions_end_gets_nothing() -> None:
    drafter = NgramDrafter([4, 4, 4])
    assert drafter.propose(2, 4).tokens == drafter.propose(4, 4).tokens == ()


@pytest.mark.parametrize("start", [0, 1, 3])
def test_a_commit_with_a_gap_is_refused(start: int) -> None:
    drafter = NgramDrafter([4, 4])
    with pytest.raises(ValueError, match="without a gap"):
        drafter.commit(start, [1])
    assert drafter.match() == (0, 0)


async def test_no_drafter_proposes_nothing() -> None:
    drafter = NoDrafter()
    drafter.commit(0, [1])
    assert await drafter.take(3, 1, 7) == Proposal(3)


async def test_a_long_match_is_preferred_to_the_model() -> None:
    prompt = [1, 2, 3, 4, 9, 1, 2, 3, 4]
    model = ScriptedDrafter(prompt)
    composed = ComposedDrafter(NgramDrafter(prompt), model)
    proposal = await composed.take(9, 1, 2)
    assert (proposal.source, proposal.tokens) == (TokenSource.NGRAM, (9, 1))
    assert model.taken == [], "the model is not waited for"


async def test_a_short_match_yields_to_the_model_and_covers_its_silence() -> None:
    prompt = [2, 3, 9, 2, 3]
    assert NgramDrafter(prompt).match()[0] < CONFIDENT_MATCH
    composed = ComposedDrafter(NgramDrafter(prompt), ScriptedDrafter(prompt))
    assert (await composed.take(5, 1, 2)).source is TokenSource.DRAFT
    dead = ComposedDrafter(NgramDrafter(prompt), ScriptedDrafter(prompt, dies_at=0))
    proposal = await dead.take(5, 1, 2)
    assert (proposal.source, proposal.tokens) == (TokenSource.NGRAM, (9, 2))


async def test_a_composed_drafter_tells_both_what_was_decided() -> None:
    ngram, model = NgramDrafter([2, 3]), ScriptedDrafter([2, 3])
    ComposedDrafter(ngram, model).commit(2, [9, 2, 3])
    assert ngram.match() == (2, 2)
    assert model.tokens == [2, 3, 9, 2, 3]
