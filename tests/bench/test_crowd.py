"""What the benchmark of many sessions makes of its turns, and what it refuses to run."""

from __future__ import annotations

import dataclasses

import pytest
from outrider_bench.crowd import CrowdSettings, Phase, counts, next_budget, problems, table
from outrider_bench.visits import Kind, Taken
from outrider_server.core.errors import StartupError

TURNS = [
    Taken(Kind.FIRST, 50.0, 65, True),
    Taken(Kind.FIRST, 52.0, 65, True),
    Taken(Kind.FIRST, 54.0, 65, True),
    Taken(Kind.RESIDENT, 10.0, 17, True),
    Taken(Kind.RESTORED, 11.0, 17, True),
    Taken(Kind.REBUILT, 61.0, 105, True),
]
COUNTED = {
    "slots_held": 1.0,
    "parked": 1.0,
    "parked_bytes": 3.0 * 2**20,
    "dropped": 2.0,
    "restored": 1.0,
    "prefilled_tokens": 3 * 64.0 + 2 * 16 + 104,
}
"""One of the three sessions is gone at the end, and one was read again before."""
PHASE = Phase(2**21, 3, TURNS, COUNTED)


def test_a_phase_that_adds_up_has_no_problem() -> None:
    assert problems(PHASE) == []


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (Taken(Kind.RESIDENT, 10.0, 17, False), "1 turns gave other tokens"),
        (Taken(Kind.PARTLY, 10.0, 17, True), "1 turns read a part of their session again"),
        (Taken(Kind.REBUILT, 10.0, 17, True), "the target dropped 2 sessions; 2 were read again"),
        (Taken(Kind.RESIDENT, 10.0, 18, True), "turns read 329 tokens, the target 328"),
    ],
)
def test_what_is_not_as_promised_is_named(turn: Taken, message: str) -> None:
    phase = dataclasses.replace(PHASE, turns=[*TURNS[:3], turn, *TURNS[4:]])
    (problem,) = problems(phase)
    assert problem.startswith(message)


def test_a_session_that_is_gone_without_being_dropped_is_a_problem() -> None:
    phase = dataclasses.replace(PHASE, counted=COUNTED | {"parked": 0.0})
    assert problems(phase) == [
        "the target dropped 2 sessions; 1 were read again and 2 are gone",
    ]


def test_the_table_has_a_row_for_every_kind_that_there_was() -> None:
    lines = table([PHASE]).splitlines()
    assert lines[2] == "| 2.00 MiB | first turn | 3 | 52.0 | 54.0 | 65 |"
    assert len(lines) == 2 + 4
    assert counts(PHASE).startswith("2.00 MiB: 6 of 6 replies right; the target restored 1")


def test_the_budgets_are_room_for_all_for_a_third_and_for_none() -> None:
    settings = CrowdSettings(park_memory="64MiB")
    all_held = dataclasses.replace(PHASE, counted=COUNTED | {"dropped": 0.0})
    assert next_budget(settings, []) == 64 * 2**20
    assert next_budget(settings, [all_held]) == 2**20
    assert next_budget(settings, [all_held, PHASE]) == 0


def test_a_budget_that_was_not_for_all_is_refused() -> None:
    with pytest.raises(StartupError, match="does not hold every session; give more"):
        next_budget(CrowdSettings(), [PHASE])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sessions": 3}, "sessions must be more than the 3 slots"),
        ({"at_once": 4}, "at once must be at most the 3 slots"),
        ({"at_once": 0}, "at once must be at least 1"),
        ({"turns": 1}, "turns must be at least 2"),
        ({"reply_tokens": 0}, "reply tokens must be at least 1"),
        ({"park_memory": "much"}, "park memory 'much' is no size"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        CrowdSettings(**changes)  # type: ignore[arg-type]
