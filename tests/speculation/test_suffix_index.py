"""The suffix index against plain scanning: growing, cut back, and on texts made to hurt it."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.speculation.suffix_index import GRAM_SIZES, MAX_LENGTH, Match, SuffixIndex

TOKEN = st.integers(0, 2)
SHORT = st.lists(TOKEN, max_size=12)
LONG = st.lists(TOKEN, min_size=30, max_size=60)
PERIODIC = st.builds(
    lambda period, times, rest: period * times + rest, SHORT, st.integers(0, 20), SHORT
)
TOKENS = SHORT | LONG | PERIODIC


def agreement(tokens: Sequence[int], place: int) -> int:
    """How many tokens before `place` equal those before the end, one by one."""
    length = 0
    while length < place and tokens[place - 1 - length] == tokens[len(tokens) - 1 - length]:
        length += 1
    return length


def scanned(tokens: Sequence[int]) -> Match:
    """The plain version of `match`: looks through all tokens, after each of them."""
    match = Match()
    for end in range(1, len(tokens) + 1):
        text = tokens[:end]
        if match.length and text[match.follower] == text[-1]:
            match = Match(min(match.length + 1, MAX_LENGTH), match.follower + 1)
        else:
            match = first_match(text)
    return match


def first_match(text: Sequence[int]) -> Match:
    """The latest place of the largest n-gram that has one, as far as it agrees."""
    for size in GRAM_SIZES:
        for place in range(len(text) - 1, size - 1, -1):
            if list(text[place - size : place]) == list(text[-size:]):
                return Match(min(agreement(text, place), MAX_LENGTH), place)
    return Match()


@given(TOKENS)
def test_the_match_is_what_scanning_finds(tokens: list[int]) -> None:
    assert SuffixIndex(tokens).match == scanned(tokens)


@given(TOKENS)
def test_the_length_of_a_match_is_how_far_both_places_agree(tokens: list[int]) -> None:
    match = SuffixIndex(tokens).match
    assert match.length == min(agreement(tokens, match.follower), MAX_LENGTH)
    assert match.follower < max(1, len(tokens)), "a match is followed by a token"


@given(TOKENS)
def test_a_match_is_found_wherever_the_last_token_stood_before(tokens: list[int]) -> None:
    there = bool(tokens) and tokens[-1] in tokens[:-1]
    assert (SuffixIndex(tokens).match.length > 0) == there


@given(TOKENS, st.lists(st.integers(1, 6), max_size=12))
def test_an_index_that_grew_equals_one_built_from_scratch(
    tokens: list[int], sizes: list[int]
) -> None:
    grown, start = SuffixIndex(), 0
    for size in [*sizes, len(tokens)]:
        grown.extend(tokens[start : start + size])
        start = min(start + size, len(tokens))
        assert (len(grown), grown.match) == (start, SuffixIndex(tokens[:start]).match)
        assert grown.following(5) == SuffixIndex(tokens[:start]).following(5)


@given(TOKENS, st.integers(0, 60), TOKENS)
def test_an_index_that_was_cut_back_equals_one_that_never_grew(
    tokens: list[int], length: int, others: list[int]
) -> None:
    """Also in what it finds afterwards: the places that the lost tokens had replaced are back."""
    length = min(length, len(tokens))
    cut = SuffixIndex(tokens)
    cut.truncate(length)
    for count in range(len(others) + 1):
        fresh = SuffixIndex(tokens[:length] + others[:count])
        assert (len(cut), cut.match, cut.following(3)) == (
            len(fresh),
            fresh.match,
            fresh.following(3),
        )
        cut.extend(others[count : count + 1])


@pytest.mark.parametrize("length", [-1, 4])
def test_an_index_cannot_be_cut_back_to_a_length_it_never_had(length: int) -> None:
    index = SuffixIndex([1, 2, 1])
    with pytest.raises(ValueError, match="cut back"):
        index.truncate(length)
    assert (len(index), index.match) == (3, Match(1, 1))


@given(TOKENS, TOKENS)
def test_an_index_aligned_with_other_tokens_is_theirs(held: list[int], tokens: list[int]) -> None:
    index = SuffixIndex(held)
    index.align(tuple(tokens))
    fresh = SuffixIndex(tokens)
    assert (len(index), index.match, index.following(4)) == (
        len(fresh),
        fresh.match,
        fresh.following(4),
    )


@given(st.lists(TOKEN, min_size=1, max_size=7), st.integers(1, 30))
def test_a_periodic_text_goes_on_with_its_period(period: list[int], count: int) -> None:
    text = period * (2 + GRAM_SIZES[0])
    index = SuffixIndex(text)
    assert index.following(count) == tuple((period * (count + 1))[:count])


def test_a_match_grows_with_what_repeats_up_to_the_longest() -> None:
    repeated = list(range(100, 100 + MAX_LENGTH + 5))
    index = SuffixIndex([*repeated, 7])
    lengths = []
    for token in repeated:
        index.extend([token])
        lengths.append(index.match.length)
    assert lengths == [min(length, MAX_LENGTH) for length in range(1, len(repeated) + 1)]


def test_a_match_is_found_at_its_full_length_in_one_step() -> None:
    """The match before the last token was elsewhere; the new one is compared backwards."""
    phrase = list(range(100, 110))
    index = SuffixIndex([*phrase, 1, 5, *phrase, 2, 6, *phrase, 1])
    assert index.match == Match(len(phrase) + 1, len(phrase) + 1)


def test_tokens_with_equal_hashes_are_told_apart() -> None:
    """Python hashes 0 and 2**61 - 1 alike, so the 4-grams and 2-grams here collide."""
    other = 2**61 - 1
    assert hash((other, 1, 2, 3)) == hash((0, 1, 2, 3))
    assert SuffixIndex([other, 9, 0]).match == Match()
    assert SuffixIndex([9, 0, 1, 2, 3, 8, 9, other, 1, 2, 3]).match == Match(3, 5)


@pytest.mark.parametrize("seed", range(4))
def test_long_texts_that_break_often_are_indexed_as_scanning_does(seed: int) -> None:
    """Phrases of a small stock with one token changed here and there, 400 tokens."""
    draw = random.Random(seed)
    stock = [[draw.randrange(4) for _ in range(draw.randrange(3, 50))] for _ in range(4)]
    text: list[int] = []
    while len(text) < 400:
        phrase = list(draw.choice(stock))
        phrase[draw.randrange(len(phrase))] = draw.randrange(4)
        text += phrase
    assert SuffixIndex(text).match == scanned(text)
    for end in range(300, 400, 7):
        index = SuffixIndex(text)
        index.truncate(end)
        assert index.match == scanned(text[:end])
