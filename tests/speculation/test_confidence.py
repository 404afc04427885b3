"""The chances that drafters are chosen by: where they begin, how they learn, what they promise."""

from __future__ import annotations

import pytest
from outrider_server.speculation.confidence import (
    MATCH_CHANCES,
    MATCH_CLASSES,
    MODEL_CHANCE,
    Chance,
    Confidence,
)


def test_longer_matches_begin_with_higher_chances() -> None:
    confidence = Confidence()
    chances = [confidence.of_match(length) for length in range(40)]
    assert chances == sorted(chances)
    assert chances[0] == 0
    assert [confidence.of_match(length) for length in MATCH_CLASSES] == pytest.approx(MATCH_CHANCES)
    assert confidence.of_model() == pytest.approx(MODEL_CHANCE)


@pytest.mark.parametrize("agreed", [False, True])
def test_a_chance_moves_to_what_happens_and_back(agreed: bool) -> None:
    """After 200 equal outcomes less than 2 % of the weight is older; 200 opposite ones undo it."""
    chance = Chance(0.5)
    for _ in range(200):
        chance.learn(agreed)
    assert chance.value == pytest.approx(float(agreed), abs=0.02)
    for _ in range(200):
        chance.learn(not agreed)
    assert chance.value == pytest.approx(float(not agreed), abs=0.02)


def test_one_outcome_does_not_decide() -> None:
    chance = Chance(0.5)
    chance.learn(False)
    assert 0.4 < chance.value < 0.5


def test_a_match_teaches_its_class_alone() -> None:
    confidence, untouched = Confidence(), Confidence()
    for _ in range(20):
        confidence.learn_match(4, False)
    assert confidence.of_match(5) == confidence.of_match(4) < 0.3
    for length in (1, 2, 3, 6, 30):
        assert confidence.of_match(length) == untouched.of_match(length)
    assert confidence.of_model() == untouched.of_model()


def test_the_model_teaches_the_model_alone() -> None:
    confidence = Confidence()
    confidence.learn_model(True)
    assert confidence.of_model() > MODEL_CHANCE
    assert confidence.of_match(1) == pytest.approx(MATCH_CHANCES[0])


def test_the_models_promise_is_the_sum_of_the_chances_to_get_so_far() -> None:
    chance = Confidence().of_model()
    expected = chance + chance**2 + chance**3
    assert Confidence().expected_of_model(3) == pytest.approx(expected)
    assert Confidence().expected_of_model(0) == 0


def test_a_matchs_promise_grows_longer_with_every_token() -> None:
    confidence = Confidence()
    first, second, third = (confidence.of_match(length) for length in (2, 3, 4))
    expected = first + first * second + first * second * third
    assert confidence.expected_of_match(2, 3) == pytest.approx(expected)
    assert confidence.expected_of_match(0, 3) == confidence.expected_of_match(2, 0) == 0
