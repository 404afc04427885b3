"""The life of a turn, walked over every state and every event."""

from __future__ import annotations

import itertools

import pytest
from outrider_server.core.errors import IllegalMove
from outrider_server.speculation.lifecycle import (
    FINAL_STATES,
    TRANSITIONS,
    Lifecycle,
    TurnEvent,
    TurnState,
)

PATHS = {
    TurnState.ACCEPTED: (),
    TurnState.DECODING: (TurnEvent.PROMPT_RECORDED,),
    TurnState.FINISHED: (TurnEvent.PROMPT_RECORDED, TurnEvent.LAST_ROUND_RECORDED),
    TurnState.CANCELLED: (TurnEvent.CALLER_GONE,),
    TurnState.FAILED: (TurnEvent.ERROR,),
}
"""How each state is reached."""


def reached(state: TurnState) -> Lifecycle:
    life = Lifecycle()
    for event in PATHS[state]:
        life.move(event)
    assert life.state is state
    return life


@pytest.mark.parametrize(("state", "event"), list(itertools.product(TurnState, TurnEvent)))
def test_legal_moves_move_and_illegal_ones_raise_and_change_nothing(
    state: TurnState, event: TurnEvent
) -> None:
    life = reached(state)
    following = TRANSITIONS.get((state, event))
    if following is None:
        with pytest.raises(IllegalMove, match=state.value):
            life.move(event)
        assert life.state is state
    else:
        assert life.move(event) is life.state is following


def test_exactly_the_final_states_have_no_way_out() -> None:
    left = {state for state, _ in TRANSITIONS}
    assert set(TurnState) - left == FINAL_STATES
    assert all(reached(state).ended == (state in FINAL_STATES) for state in TurnState)


def test_a_turn_can_always_be_cancelled_or_fail_until_it_has_ended() -> None:
    for state in set(TurnState) - FINAL_STATES:
        assert TRANSITIONS[state, TurnEvent.CALLER_GONE] is TurnState.CANCELLED
        assert TRANSITIONS[state, TurnEvent.ERROR] is TurnState.FAILED


def test_nothing_is_decoded_before_the_prompt_is_recorded() -> None:
    assert (TurnState.ACCEPTED, TurnEvent.ROUND_RECORDED) not in TRANSITIONS
    assert (TurnState.ACCEPTED, TurnEvent.LAST_ROUND_RECORDED) not in TRANSITIONS
