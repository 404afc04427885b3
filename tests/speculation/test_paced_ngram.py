"""N-grams alone in an adaptive turn: what they say of their guesses, and when they rest."""

from __future__ import annotations

import pytest
from fakes import HashVerifier, LengthEnd, ListRecorder, continuation
from outrider_server.core.costs import RoundCost
from outrider_server.core.types import Round, TokenSource
from outrider_server.pacing.crowd import FIRST_LOOK_ROUNDS, SETTLING_ROUNDS, Crowd
from outrider_server.pacing.meter import CostMeter, TurnMeter
from outrider_server.speculation.confidence import Confidence
from outrider_server.speculation.decoder import decode_ahead
from outrider_server.speculation.ngram import NgramDrafter
from outrider_server.speculation.paced_ngram import PacedNgramDrafter
from outrider_server.speculation.turn import Turn

WIDTH = 8
WINDOW = 7
REPEATED = (5, 6, 7, 8, 9) * 3


def drafter(
    tokens: tuple[int, ...], meter: TurnMeter, crowd: Crowd | None = None
) -> PacedNgramDrafter:
    return PacedNgramDrafter(NgramDrafter(tokens), meter, crowd or Crowd())


def resting() -> TurnMeter:
    return TurnMeter(CostMeter(WIDTH), resting=True)


async def test_every_guess_carries_the_chance_that_it_and_those_before_it_come() -> None:
    proposal = await drafter((1, 2, 3, 1), resting()).take(4, 1, 3)
    assert (proposal.tokens, set(proposal.sources)) == ((2, 3, 1), {TokenSource.NGRAM})
    chances = [Confidence().of_match(length) for length in (1, 2, 3)]
    expected = (chances[0], chances[0] * chances[1], chances[0] * chances[1] * chances[2])
    assert proposal.survival == pytest.approx(expected)


async def test_without_a_match_nothing_is_proposed() -> None:
    proposal = await drafter((1, 2, 3), resting()).take(3, 1, WINDOW)
    assert (proposal.tokens, proposal.survival) == ((), ())


async def test_what_has_failed_is_believed_less() -> None:
    learning = drafter((1, 2, 1), resting())
    first = await learning.take(3, 1, 1)
    learning.commit(3, (7, 1))
    later = await learning.take(5, 1, 1)
    assert later.survival < first.survival


async def test_it_rests_while_the_crowd_does_and_learns_all_the_same() -> None:
    crowd, meter = Crowd(), resting()
    crowd.join()
    crowd.join()
    among_others = drafter(REPEATED, meter, crowd)
    position, proposed = len(REPEATED), []
    for number in range(2 * (SETTLING_ROUNDS + FIRST_LOOK_ROUNDS) + 2):
        proposal = await among_others.take(position, 1, WINDOW)
        proposed.append(len(proposal.tokens))
        token = REPEATED[position % len(REPEATED)]
        meter.observe(a_round(position, token, number))
        among_others.commit(position, (token,))
        position += 1
    rested = proposed.index(0)
    assert proposed[:rested] == [WINDOW] * rested
    assert rested >= SETTLING_ROUNDS + FIRST_LOOK_ROUNDS
    crowd.leave()
    among_others.commit(position, (REPEATED[position % len(REPEATED)],))
    assert len((await among_others.take(position + 1, 1, WINDOW)).tokens) == WINDOW


def a_round(position: int, token: int, number: int) -> Round:
    return Round(
        start_position=position,
        tokens=(token,),
        texts=("",),
        sources=(TokenSource.TARGET,),
        logprobs=(),
        proposed=0,
        agreed=0,
        context=1,
        finish_reason=None,
        cost=RoundCost(verify_ms=10.0, since_ms=10.0 if number else None),
    )


async def test_the_loop_gives_the_targets_tokens() -> None:
    for seed in range(5):
        prompt = [seed, 1, 2]
        turn = Turn(prompt, 0, WINDOW, LengthEnd(60), 60)
        by_ngram = drafter(tuple(prompt), resting())
        rounds = [one async for one in decode_ahead(turn, HashVerifier(), by_ngram, ListRecorder())]
        assert tuple(token for one in rounds for token in one.tokens) == continuation(prompt, 60)
        assert any(one.proposed for one in rounds), "the case is one where n-grams propose"
