"""Which idle sessions are tried, and how memory is told."""

from __future__ import annotations

import pytest
from outrider_bench.idle import (
    Idle,
    IdleSettings,
    Memory,
    problems,
    sessions_asked,
    sessions_with_turn,
    summary,
    table,
)
from outrider_server.core.errors import StartupError

READINGS = [
    Memory("the start", 0, 0.0, {"target": 2**20, "session": 2**20}),
    Memory("100 sessions", 100, 1.5, {"target": 2**20, "session": 2**20 + 5000}),
]


@pytest.mark.parametrize(("with_turn", "had"), [(0, 0), (4, 4), (60, 10), (95, 15), (100, 20)])
def test_sessions_that_had_a_turn_and_others_are_tried(with_turn: int, had: int) -> None:
    settings = IdleSettings(sessions=100, with_turn=with_turn, asked=20)
    asked = sessions_asked(settings)
    assert len(set(asked)) == 20
    assert len(set(sessions_with_turn(settings)) & set(asked)) == had


def test_memory_is_told_by_session_of_its_step() -> None:
    assert table(READINGS).splitlines()[2:] == [
        "| the start | 0.0 | 1.0 |  | 1.0 |  |",
        "| 100 sessions | 1.5 | 1.0 | 0 | 1.0 | 50 |",
    ]


def test_wrong_turns_are_problems() -> None:
    assert problems(Idle(READINGS, 0, 0, 50, 12.0)) == []
    found = Idle(READINGS, 2, 1, 50, 12.0)
    assert [text.split(" gave")[0] for text in problems(found)] == ["2 first turns", "1 next turns"]
    assert summary(found).startswith("next turn of 50 sessions: 49 right")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sessions": 0}, "sessions must be at least 1"),
        ({"asked": 10_001}, "asked must be at most the 10000 sessions"),
        ({"with_turn": 10_001}, "with turn must be 0 to the 10000 sessions"),
        ({"park_memory": "1"}, "park memory '1' is no size"),
    ],
)
def test_settings_that_cannot_be_run_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        IdleSettings(**changes)  # type: ignore[arg-type]
