"""The drafter that proposes nothing, and the one that chooses between n-grams and a model."""

from __future__ import annotations

from collections.abc import Sequence

from fakes import ScriptedDrafter
from outrider_server.core.types import Proposal, TokenSource
from outrider_server.speculation.confidence import Confidence
from outrider_server.speculation.drafters import ComposedDrafter, NoDrafter
from outrider_server.speculation.ngram import NgramDrafter
from outrider_server.speculation.suffix_index import Match

LONG_MATCH = [1, 2, 3, 4, 5, 6, 9, 1, 2, 3, 4, 5, 6]
SHORT_MATCH = [3, 9, 2, 3]
NO_MATCH = [1, 2, 3]


class FixedDrafter:
    """Guesses the same tokens whatever was decided."""

    def __init__(self, tokens: Sequence[int], offset: int = 0) -> None:
        self._tokens = tuple(tokens)
        self._offset = offset
        self.taken: list[tuple[int, int, int]] = []

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        self.taken.append((position, minimum, maximum))
        return Proposal(position + self._offset, self._tokens[:maximum])

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Nothing to do."""


async def test_no_drafter_proposes_nothing() -> None:
    drafter = NoDrafter()
    drafter.commit(0, [1])
    assert await drafter.take(3, 1, 7) == Proposal(3)


async def test_a_long_match_is_preferred_to_the_model() -> None:
    model = FixedDrafter([7, 7])
    composed = ComposedDrafter(NgramDrafter(LONG_MATCH), model)
    proposal = await composed.take(len(LONG_MATCH), 2, 2)
    assert (proposal.source, proposal.tokens) == (TokenSource.NGRAM, (9, 1))
    assert model.taken == [], "the model is not waited for"


async def test_a_short_match_yields_to_the_model() -> None:
    composed = ComposedDrafter(NgramDrafter(SHORT_MATCH), FixedDrafter([7, 7]))
    assert await composed.take(4, 2, 2) == Proposal(4, (7, 7))


async def test_a_short_match_covers_a_model_that_has_nothing() -> None:
    composed = ComposedDrafter(NgramDrafter(SHORT_MATCH), FixedDrafter([]))
    proposal = await composed.take(4, 2, 2)
    assert (proposal.source, proposal.tokens) == (TokenSource.NGRAM, (9, 2))


async def test_n_grams_go_on_where_the_models_guesses_end() -> None:
    """After 3 stood 9 2; after the model's 3 9 comes 2 again, then what followed that."""
    composed = ComposedDrafter(NgramDrafter([3, 9, 2, 8]), FixedDrafter([3, 9]))
    proposal = await composed.take(4, 1, 4)
    assert proposal.tokens == (3, 9, 2, 8)
    assert proposal.sources == (TokenSource.DRAFT,) * 2 + (TokenSource.NGRAM,) * 2


async def test_going_on_leaves_no_trace_of_the_models_guesses() -> None:
    ngram = NgramDrafter([3, 9, 2, 8])
    composed = ComposedDrafter(ngram, FixedDrafter([3, 9]))
    first = await composed.take(4, 1, 4)
    assert await composed.take(4, 1, 4) == first
    composed.commit(4, [3])
    assert ngram.match() == Match(1, 1)


async def test_guesses_that_lead_to_nothing_known_or_fill_the_window_are_left_alone() -> None:
    ngram = NgramDrafter([3, 9, 2, 8])
    assert await ComposedDrafter(ngram, FixedDrafter([3, 77])).take(4, 1, 4) == Proposal(4, (3, 77))
    assert await ComposedDrafter(ngram, FixedDrafter([3, 9])).take(4, 1, 2) == Proposal(4, (3, 9))


def test_a_model_that_says_more_than_asked_is_not_continued() -> None:
    proposal = Proposal(2, (7, 3))
    assert NgramDrafter([3, 9]).continued(proposal, 0) == proposal


async def test_a_model_that_speaks_of_another_position_has_nothing() -> None:
    composed = ComposedDrafter(NgramDrafter(SHORT_MATCH), FixedDrafter([7, 7], offset=1))
    assert (await composed.take(4, 2, 2)).source is TokenSource.NGRAM


async def test_without_a_match_the_model_is_asked_as_the_loop_asks() -> None:
    model = FixedDrafter([7, 7, 7])
    composed = ComposedDrafter(NgramDrafter(NO_MATCH), model)
    assert await composed.take(3, 1, 2) == Proposal(3, (7, 7))
    assert model.taken == [(3, 1, 2)]


async def test_with_neither_match_nor_model_nothing_is_proposed() -> None:
    composed = ComposedDrafter(NgramDrafter(NO_MATCH), FixedDrafter([]))
    assert (await composed.take(3, 0, 2)).tokens == ()


async def test_a_model_that_fails_loses_to_a_match_that_it_won_against() -> None:
    """Sixty rounds without a match, each with a wrong guess, then the match of `SHORT_MATCH`."""
    composed = ComposedDrafter(NgramDrafter(()), FixedDrafter([99]))
    for position in range(60):
        assert (await composed.take(position, 1, 1)).source is TokenSource.DRAFT
        composed.commit(position, [1000 + position])
    composed.commit(60, SHORT_MATCH)
    assert (await composed.take(64, 1, 1)).tokens == (9,)


async def test_a_match_that_fails_loses_to_the_model_that_it_won_against() -> None:
    """The same phrase goes on otherwise each time: a match of six is right in no round."""
    composed = ComposedDrafter(NgramDrafter(LONG_MATCH), FixedDrafter([99]))
    position, sources = len(LONG_MATCH), []
    for number in range(30):
        sources.append((await composed.take(position, 1, 1)).source)
        composed.commit(position, [1000 + number, *LONG_MATCH[:6]])
        position += 7
    assert sources[0] is TokenSource.NGRAM
    assert sources[-1] is TokenSource.DRAFT


async def test_only_guesses_up_to_the_first_wrong_one_teach() -> None:
    ngram, expected = NgramDrafter(NO_MATCH), Confidence()
    composed = ComposedDrafter(ngram, FixedDrafter([7, 8, 9, 10]))
    await composed.take(3, 4, 4)
    composed.commit(3, [7, 55, 9])
    expected.learn_model(True)
    expected.learn_model(False)
    assert ngram.confidence.of_model() == expected.of_model()


async def test_guesses_beyond_what_was_decided_teach_nothing_then_or_later() -> None:
    ngram, expected = NgramDrafter(NO_MATCH), Confidence()
    composed = ComposedDrafter(ngram, FixedDrafter([7, 8]))
    await composed.take(3, 2, 2)
    composed.commit(3, [7])
    composed.commit(4, [40])
    expected.learn_model(True)
    assert ngram.confidence.of_model() == expected.of_model()


async def test_a_model_that_was_not_asked_is_not_judged() -> None:
    ngram = NgramDrafter(NO_MATCH)
    composed = ComposedDrafter(ngram, FixedDrafter([70, 71]))
    await composed.take(3, 2, 2)
    composed.commit(3, [70, 71, *LONG_MATCH])
    judged = ngram.confidence.of_model()
    position = 5 + len(LONG_MATCH)
    assert (await composed.take(position, 2, 2)).source is TokenSource.NGRAM
    composed.commit(position, [9, 1])
    assert ngram.confidence.of_model() == judged


async def test_a_composed_drafter_tells_both_what_was_decided() -> None:
    ngram, model = NgramDrafter([2, 3]), ScriptedDrafter([2, 3])
    ComposedDrafter(ngram, model).commit(2, [9, 2, 3])
    assert ngram.match() == Match(2, 2)
    assert model.tokens == [2, 3, 9, 2, 3]
