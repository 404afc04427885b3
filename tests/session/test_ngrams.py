"""What the session service keeps of n-grams between turns."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outrider_server.session.ngrams import NgramMemory
from outrider_server.speculation.confidence import Confidence
from outrider_server.speculation.ngram import NgramDrafter
from outrider_server.speculation.suffix_index import SuffixIndex

TOKENS = st.lists(st.integers(0, 2), max_size=20)


@pytest.fixture
def indexed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Every token that any index takes in, in order."""
    tokens: list[int] = []
    extend = SuffixIndex.extend

    def noted(index: SuffixIndex, added: Sequence[int]) -> None:
        tokens.extend(added)
        extend(index, added)

    monkeypatch.setattr(SuffixIndex, "extend", noted)
    return tokens


@given(st.lists(st.tuples(st.sampled_from("ab"), TOKENS, TOKENS), max_size=8), st.integers(0, 60))
def test_a_remembered_session_drafts_as_a_fresh_one(
    turns: list[tuple[str, list[int], list[int]]], max_tokens: int
) -> None:
    """Whatever the sessions' tokens turn out to be, and whatever is forgotten between turns."""
    memory = NgramMemory(max_tokens)
    for session_id, prompt, reply in turns:
        drafter, fresh = memory.open(session_id, prompt), NgramDrafter(prompt)
        assert drafter.propose(len(prompt), 4) == fresh.propose(len(prompt), 4)
        drafter.commit(len(prompt), reply)
        fresh.commit(len(prompt), reply)
        length = len(prompt) + len(reply)
        assert drafter.propose(length, 4) == fresh.propose(length, 4)


def test_a_turn_indexes_only_the_tokens_that_are_new(indexed: list[int]) -> None:
    memory = NgramMemory()
    memory.open("a", [1, 2, 3]).commit(3, [4, 5])
    memory.open("b", [9])
    memory.open("a", [1, 2, 3, 4, 5, 6, 7])
    assert indexed == [1, 2, 3, 4, 5, 9, 6, 7]


def test_a_session_that_was_rewound_keeps_what_it_still_begins_with(indexed: list[int]) -> None:
    memory = NgramMemory()
    memory.open("a", [1, 2, 3, 4, 5])
    memory.open("a", [1, 2, 3, 8])
    assert indexed == [1, 2, 3, 4, 5, 8]


def test_what_a_session_learnt_it_still_knows_in_its_next_turn() -> None:
    memory = NgramMemory()
    memory.open("a", [1, 2, 1]).commit(3, [7])
    first = Confidence().of_match(1)
    learnt = memory.open("a", [1, 2, 1, 7]).confidence.of_match(1)
    assert learnt < first


def test_a_new_session_begins_with_what_the_latest_ones_have_learnt() -> None:
    memory = NgramMemory()
    memory.open("a", [1, 2, 1]).commit(3, [7])
    memory.agreement("a").observe(40, 0)
    memory.open("b", [1, 2, 1]).commit(3, [2, 1, 2])
    memory.agreement("b").observe(5, 5)
    learnt = [memory.open(session_id, [1]).confidence.of_match(1) for session_id in "ab"]
    agreements = [memory.agreement(session_id).value for session_id in "ab"]
    assert agreements[0] < agreements[1]
    begun = memory.open("c", [1, 2, 1])
    assert begun.confidence.of_match(1) == pytest.approx(fmean(learnt))
    assert begun.confidence.of_match(20) == Confidence().of_match(20)
    assert memory.agreement("c").value == pytest.approx(fmean(agreements))
    begun.commit(3, [9])
    assert [memory.open(one, [1]).confidence.of_match(1) for one in "ab"] == learnt


def test_the_session_opened_least_recently_is_forgotten_first(indexed: list[int]) -> None:
    memory = NgramMemory(max_tokens=6)
    for session_id in ("a", "b", "c", "a", "d"):
        memory.open(session_id, [1, 2])
    assert len(memory) == 3
    indexed.clear()
    for session_id in ("a", "c", "d"):
        memory.open(session_id, [1, 2])
    assert indexed == []
    memory.open("b", [1, 2])
    assert indexed == [1, 2]


def test_tokens_that_came_during_a_turn_count_when_the_next_one_opens() -> None:
    memory = NgramMemory(max_tokens=6)
    drafter = memory.open("a", [1, 2])
    memory.open("b", [1, 2])
    drafter.commit(2, [3, 4, 5])
    assert len(memory) == 2
    memory.open("b", [1, 2])
    assert len(memory) == 1, "5 tokens of one and 2 of the other are above 6"


def test_a_session_larger_than_the_bound_is_kept_while_it_is_the_latest(indexed: list[int]) -> None:
    memory = NgramMemory(max_tokens=3)
    memory.open("a", [1, 2, 3, 4])
    memory.open("a", [1, 2, 3, 4, 5])
    assert indexed == [1, 2, 3, 4, 5]
    memory.open("b", [1])
    assert len(memory) == 1


def test_a_forgotten_session_leaves_nothing() -> None:
    memory = NgramMemory()
    memory.open("a", [1, 2, 1]).commit(3, [7])
    memory.forget("a")
    memory.forget("never opened")
    assert len(memory) == 0
    assert memory.open("a", [1]).confidence.of_match(1) == Confidence().of_match(1)


def test_a_turn_that_lost_its_session_disturbs_no_other() -> None:
    memory = NgramMemory()
    lost = memory.open("a", [1, 2, 1])
    assert lost.propose(3, 1).tokens == (2,)
    found = memory.open("a", [1, 2, 1, 2])
    lost.commit(3, [7, 7])
    assert lost.propose(5, 1).tokens == ()
    assert found.propose(4, 2).tokens == (1, 2)
    found.commit(4, [1])
    assert found.propose(5, 1).tokens == (2,)
