"""Who proposes in an adaptive turn, how long a round waits, and what the draft is told of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from fakes import HashVerifier, LengthEnd, ListRecorder, continuation, next_token
from hypothesis import given, settings
from hypothesis import strategies as st
from outrider_server.core.costs import GuessCost
from outrider_server.core.types import Proposal, TokenSource
from outrider_server.pacing.crowd import Crowd
from outrider_server.pacing.estimates import FIRST_REST_ROUNDS, AgreementEstimate
from outrider_server.pacing.meter import CostMeter, TurnMeter
from outrider_server.pacing.pacer import PROBED_GUESSES, Pacer
from outrider_server.speculation.decoder import decode_ahead
from outrider_server.speculation.ngram import NgramDrafter
from outrider_server.speculation.paced import FIRST_WINDOW, PacedDrafter
from outrider_server.speculation.turn import Turn

WIDTH = 8
WINDOW = 7
NEW = (1, 2, 3, 4)
"""Tokens none of which stood before."""
REPEATED = (5, 6, 7, 8, 9) * 6
"""What comes next is as certain as n-grams can be."""


class FakeModel:
    """A draft model whose guesses are there at once. Remembers what was asked of it, and in which order.

    With `agreed` it says at each commit that so many of all the tokens committed were guessed right.
    """

    def __init__(self, guesses: Sequence[int] = (90, 91, 92, 93, 94, 95, 96), agreed: bool = True):
        self.guesses = tuple(guesses)
        self.taken: list[tuple[int, int, int]] = []
        self.told: list[tuple[int, int]] = []
        self.calls: list[str] = []
        self.cost: tuple[GuessCost, ...] = ()
        self._agreed = agreed
        self._compared = 0

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        assert 0 <= minimum <= maximum, "nobody may wait for more than is taken"
        self.taken.append((position, minimum, maximum))
        return Proposal(position, self.guesses[:maximum])

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        self.calls.append("commit")
        if self.told[-1][0]:
            self._compared += len(tokens)

    def pace(self, lead: int, burst: int, ahead: bool = False) -> None:
        assert burst >= 1
        assert lead > 0 or not ahead, "a draft that rests is not ahead"
        self.calls.append("pace")
        self.told.append((lead, burst))

    def spent(self) -> tuple[GuessCost, ...]:
        spent, self.cost = self.cost, ()
        return spent

    def compared(self) -> tuple[int, int]:
        compared, self._compared = self._compared, 0
        return compared, compared if self._agreed else 0


def meter(draft_ms: float = 1.0, round_trip_ms: float = 1.0, verify_ms: float = 20.0) -> TurnMeter:
    """A meter that has measured these costs, in both ways of pacing."""
    costs = CostMeter(WIDTH)
    for ahead in (False, True):
        costs.guessed(ahead, 1, draft_ms)
        costs.answered(ahead, round_trip_ms)
        costs.verified(ahead, verify_ms, 0, 0)
    return TurnMeter(costs)


def paced(
    model: FakeModel,
    measured: TurnMeter | None = None,
    tokens: Sequence[int] | None = NEW,
    agreement: float = 0.9,
    window: int = WINDOW,
) -> PacedDrafter:
    """An adaptive turn's drafter after `tokens`; without n-grams where they are None."""
    ngram = NgramDrafter(tokens) if tokens is not None else None
    pacer = Pacer(AgreementEstimate(prior=agreement), window)
    return PacedDrafter(model, ngram, pacer, measured or meter(), Crowd(), window)


FREE = {"draft_ms": 0.2, "round_trip_ms": 0.1, "verify_ms": 20.0}
"""A draft that is always worth its time."""
NEAR = {"draft_ms": 4.0, "round_trip_ms": 0.0, "verify_ms": 10.0}
"""A draft that is worth waiting for, a few guesses each time."""
DEAR = {"draft_ms": 50.0, "round_trip_ms": 50.0, "verify_ms": 10.0}
"""A draft that is never worth its time."""


async def test_the_first_round_waits_for_nothing() -> None:
    for measured in (TurnMeter(CostMeter(WIDTH)), meter(**FREE), meter(**NEAR)):
        model = FakeModel()
        await paced(model, measured).take(4, 0, WINDOW)
        assert [minimum for _, minimum, _ in model.taken] == [0]


async def test_what_has_arrived_for_the_first_round_is_proposed_all_the_same() -> None:
    proposal = await paced(FakeModel((90, 91)), meter(**FREE)).take(4, 0, WINDOW)
    assert proposal.tokens[:2] == (90, 91)
    assert proposal.sources[:2] == (TokenSource.DRAFT,) * 2


async def test_an_unmeasured_draft_is_asked_for_a_few_guesses_together() -> None:
    model = FakeModel()
    drafter = paced(model, TurnMeter(CostMeter(WIDTH)))
    assert model.told == [(FIRST_WINDOW, FIRST_WINDOW)]
    await drafter.take(4, 1, WINDOW)
    assert model.taken == [(4, FIRST_WINDOW, FIRST_WINDOW)]


@pytest.mark.parametrize("costs", [FREE, NEAR])
@pytest.mark.parametrize("agreement", [0.5, 0.7, 0.95])
async def test_a_round_waits_for_exactly_what_the_pace_says(
    costs: dict[str, float], agreement: float
) -> None:
    measured = meter(**costs)
    model = FakeModel()
    drafter = paced(model, measured, None, agreement)
    estimate = AgreementEstimate(prior=agreement)
    pace = Pacer(estimate, WINDOW).choose(
        *(measured.costs.costs(ahead) for ahead in (False, True)), WINDOW
    )
    assert pace.window > 0, "the case is meant to pay"
    await drafter.take(4, 1, WINDOW)
    assert model.taken == [(4, pace.minimum, pace.window)]
    assert model.told == [(pace.lead, pace.minimum)]
    assert measured.ahead is pace.ahead


async def test_both_ways_of_pacing_are_among_the_cases_above() -> None:
    ways = set()
    for costs in (FREE, NEAR):
        for agreement in (0.5, 0.7, 0.95):
            measured = meter(**costs)
            paced(FakeModel(), measured, None, agreement)
            ways.add(measured.ahead)
    assert ways == {False, True}


async def test_the_end_of_a_turn_waits_for_no_more_than_it_can_use() -> None:
    model = FakeModel()
    drafter = paced(model, meter(**NEAR), None, 0.95)
    for maximum in (2, 1, 0):
        proposal = await drafter.take(4, min(1, maximum), maximum)
        assert len(proposal.tokens) == maximum
    assert [minimum for _, minimum, _ in model.taken] == [2, 1]


async def test_the_draft_hears_of_the_pace_after_the_tokens_that_it_follows() -> None:
    model = FakeModel()
    drafter = paced(model)
    drafter.commit(4, (5, 6))
    drafter.commit(6, (7,))
    assert model.calls == ["pace", "commit", "pace", "commit", "pace"]


@pytest.mark.parametrize("agreement", [0.7, 0.9])
async def test_the_draft_rests_while_n_grams_serve(agreement: float) -> None:
    """It would take turns with the target at 0.7 and run ahead at 0.9."""
    model = FakeModel()
    drafter = paced(model, meter(**FREE), REPEATED, agreement)
    position = len(REPEATED)
    proposal = await drafter.take(position, 1, WINDOW)
    assert proposal.tokens == (5, 6, 7, 8, 9, 5, 6)
    assert set(proposal.sources) == {TokenSource.NGRAM}
    assert model.taken == []
    drafter.commit(position, (5, 6, 7))
    assert [lead for lead, _ in model.told] == [0, 0]


async def test_the_draft_goes_on_when_n_grams_have_nothing_more() -> None:
    model = FakeModel()
    drafter = paced(model, meter(**FREE), REPEATED, agreement=0.7)
    drafter.commit(len(REPEATED), (50,))
    assert model.told[0][0] == 0
    assert model.told[1][0] > 0
    await drafter.take(len(REPEATED) + 1, 1, WINDOW)
    assert len(model.taken) == 1


async def test_a_draft_that_does_not_pay_rests_and_n_grams_propose() -> None:
    model = FakeModel()
    drafter = paced(model, meter(**DEAR), (5, 6, 5))
    assert model.told == [(0, 1)]
    proposal = await drafter.take(3, 1, WINDOW)
    assert (proposal.tokens[0], set(proposal.sources)) == (6, {TokenSource.NGRAM})
    assert model.taken == []


async def test_a_probe_proposes_nothing_of_the_model_and_nobody_waits_for_it() -> None:
    """The draft guesses again after its first rest, and rests again once enough was compared."""
    model = FakeModel()
    measured = meter(**DEAR)
    drafter = paced(model, measured, None, agreement=0.1)
    position, probed = 4, 0
    for round_number in range(FIRST_REST_ROUNDS + PROBED_GUESSES + 2):
        lead, burst = model.told[-1]
        assert measured.ahead is (lead > 0)
        if lead:
            assert (lead, burst) == (WINDOW, 1)
            assert round_number >= FIRST_REST_ROUNDS
            probed += 1
        assert (await drafter.take(position, 1, WINDOW)).tokens == ()
        drafter.commit(position, (round_number,))
        position += 1
    assert model.taken == []
    assert probed == PROBED_GUESSES
    assert model.told[-1][0] == 0


async def test_a_draft_that_turns_out_to_be_good_is_used_after_its_probe() -> None:
    model = FakeModel()
    drafter = paced(model, meter(draft_ms=4.0, round_trip_ms=2.0, verify_ms=10.0), None, 0.05)
    position = 4
    assert model.told[-1][0] == 0
    for round_number in range(60):
        await drafter.take(position, 1, WINDOW)
        drafter.commit(position, (round_number,))
        position += 1
        if model.taken:
            return
    pytest.fail("the draft was never asked again")


async def test_a_model_that_has_died_leaves_n_grams() -> None:
    model = FakeModel(())
    drafter = paced(model, meter(**FREE), (5, 6, 5))
    proposal = await drafter.take(3, 1, WINDOW)
    assert model.taken, "the case is one where the model is asked"
    assert (proposal.tokens[0], set(proposal.sources)) == (6, {TokenSource.NGRAM})
    assert len(proposal.survival) == len(proposal.tokens)


@settings(max_examples=60)
@given(st.data())
def test_survival_is_a_falling_product_as_long_as_the_proposal(data: st.DataObject) -> None:
    """Whoever proposes, whatever was learnt; and never more than `maximum` is proposed."""
    tokens = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=30))
    costs = data.draw(st.sampled_from([FREE, NEAR, DEAR]))
    guesses = data.draw(st.lists(st.integers(0, 3), max_size=WINDOW))
    with_ngram = data.draw(st.booleans())
    model = FakeModel(guesses, agreed=data.draw(st.booleans()))
    agreement = data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    drafter = paced(model, meter(**costs), tokens if with_ngram else None, agreement)
    position = len(tokens)
    for _ in range(data.draw(st.integers(1, 6))):
        maximum = data.draw(st.integers(0, WINDOW))
        proposal = finished(drafter.take(position, min(1, maximum), maximum))
        assert proposal.start_position == position
        assert len(proposal.tokens) <= maximum
        assert len(proposal.survival) == len(proposal.tokens)
        assert all(0 <= chance <= 1 for chance in proposal.survival)
        assert all(earlier >= later for earlier, later in pairwise(proposal.survival))
        decided = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
        drafter.commit(position, decided)
        position += len(decided)


def finished(coroutine) -> Proposal:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


async def test_survival_is_the_product_of_what_is_believed_of_each_source() -> None:
    model = FakeModel((5, 6))
    drafter = paced(model, meter(**FREE), (5, 6, 7, 9), agreement=0.8)
    proposal = await drafter.take(4, 1, WINDOW)
    assert proposal.tokens[:3] == (5, 6, 7)
    assert proposal.sources[:3] == (TokenSource.DRAFT, TokenSource.DRAFT, TokenSource.NGRAM)
    assert proposal.survival[:2] == pytest.approx((0.8, 0.64))
    assert drafter._ngram is not None
    third = 0.64 * drafter._ngram.confidence.of_match(1)
    assert proposal.survival[2] == pytest.approx(third)


class HashModel(FakeModel):
    """Guesses the fake target's tokens, each wrong with probability 0.3."""

    def __init__(self, prompt: Sequence[int], seed: int) -> None:
        super().__init__()
        self._tokens = list(prompt)
        self._random = random.Random(seed)

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        await super().take(position, minimum, maximum)
        assert position == len(self._tokens)
        guesses: list[int] = []
        for _ in range(maximum):
            right = next_token(self._tokens + guesses)
            guesses.append((right + (self._random.random() < 0.3)) % 5)
        return Proposal(position, tuple(guesses))

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        super().commit(start_position, tokens)
        self._tokens += tokens


@pytest.mark.parametrize("costs", [FREE, NEAR, DEAR, None])
@pytest.mark.parametrize("with_ngram", [True, False])
async def test_the_loop_gives_the_targets_tokens_whatever_is_paced(
    costs: dict[str, float] | None, with_ngram: bool
) -> None:
    for seed in range(5):
        prompt = [seed, 1, 2]
        measured = TurnMeter(CostMeter(WIDTH)) if costs is None else meter(**costs)
        drafter = paced(HashModel(prompt, seed), measured, prompt if with_ngram else None)
        turn = Turn(prompt, 0, WINDOW, LengthEnd(60), 60)
        recorder = ListRecorder()
        rounds = [one async for one in decode_ahead(turn, HashVerifier(), drafter, recorder)]
        tokens = [token for one in rounds for token in one.tokens]
        assert tuple(tokens) == continuation(prompt, 60)


@pytest.mark.parametrize("costs", [FREE, DEAR])
@pytest.mark.parametrize("tokens", [NEW, REPEATED])
async def test_what_guesses_cost_is_told_once_whether_they_are_taken_or_not(
    costs: dict[str, float], tokens: Sequence[int]
) -> None:
    model = FakeModel()
    drafter = paced(model, meter(**costs), tokens)
    cost = (GuessCost(3, 6.0, 9.0),)
    model.cost = cost
    assert (await drafter.take(len(tokens), 1, WINDOW)).spent == cost
    assert (await drafter.take(len(tokens), 1, WINDOW)).spent == ()
