"""The commands of the session benchmarks: one option a setting, bad input in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from commands_for_tests import Run, refusal
from outrider_bench import sessions
from outrider_bench.clients import OverloadSettings
from outrider_bench.command import bench
from outrider_bench.crowd import CrowdSettings
from outrider_bench.idle import IdleSettings
from outrider_bench.parking import ParkingSettings

SUITES = {
    "crowd": CrowdSettings(),
    "parking": ParkingSettings(),
    "overload": OverloadSettings(),
    "idle": IdleSettings(),
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The settings that were measured with, if anything was."""
    found: list[Any] = []

    def measure(settings: object, *_: object) -> int:
        found.append(settings)
        return 0

    monkeypatch.setattr(sessions, "measure_sessions", measure)
    monkeypatch.setattr(sessions, "measure_parking", measure)
    return found


def run(words: str) -> None:
    """The command in this process."""
    with pytest.raises(SystemExit) as ended:
        typer.main.get_command(bench)(["sessions", *words.split()])
    assert ended.value.code == 0


@pytest.mark.parametrize("suite", SUITES)
def test_without_options_a_suite_runs_with_its_defaults(suite: str, asked: list[Any]) -> None:
    run(suite)
    assert asked == [SUITES[suite]]


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("crowd --sessions 9 --park-memory 1GiB", CrowdSettings(sessions=9, park_memory="1GiB")),
        (
            "parking --lengths 8 --lengths 16 --repeats 1",
            ParkingSettings(lengths=(8, 16), repeats=1),
        ),
        (
            "overload --loads 2 --loads 3.5 --draft off",
            OverloadSettings(loads=(2.0, 3.5), draft="off"),
        ),
        ("idle --with-turn 0", IdleSettings(with_turn=0)),
    ],
)
def test_options_are_settings(words: str, settings: object, asked: list[Any]) -> None:
    run(words)
    assert asked == [settings]


@pytest.mark.parametrize("suite", SUITES)
def test_every_setting_has_an_option(suite: str) -> None:
    group: Any = typer.main.get_command(bench)
    names = {option.name for option in group.commands["sessions"].commands[suite].params}
    assert set(type(SUITES[suite]).__slots__) <= names


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("crowd --target missing", "model folder missing does not exist"),
        ("idle --draft-model missing", "model folder missing does not exist"),
        ("crowd --sessions 2", "sessions must be more than the 3 slots"),
        ("crowd --first-tokens 5000", "a session would hold"),
        ("overload --prompt-tokens 5000", "a session would hold"),
        ("idle --prompt-tokens 5000", "a session would hold"),
        ("parking --lengths 5000", "lengths must be 1 to 4096"),
        ("parking --widen -1", "widen must be a number of at least 0"),
        ("crowd --widen nan", "widen must be a number of at least 0"),
    ],
)
def test_bad_input_ends_in_one_line(
    words: str, message: str, tmp_path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run_command("bench", "sessions", *words.split())
    assert refusal(outcome).startswith(f"outrider-server: {message}")
