"""The command of the session benchmarks: one option a setting, bad input in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from outrider_bench.clients import OverloadSettings
from outrider_bench.crowd import CrowdSettings
from outrider_bench.idle import IdleSettings
from outrider_bench.parking import ParkingSettings
from outrider_bench.sessions import SUITES, parsed, settings_of


@pytest.mark.parametrize("suite", SUITES)
def test_without_options_a_suite_runs_with_its_defaults(suite: str) -> None:
    kind = SUITES[suite][0]
    assert settings_of(kind, parsed([suite])) == kind()


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        ("crowd --sessions 9 --park-memory 1GiB", CrowdSettings(sessions=9, park_memory="1GiB")),
        ("parking --lengths 8 16 --repeats 1", ParkingSettings(lengths=(8, 16), repeats=1)),
        ("overload --loads 2 3.5 --draft off", OverloadSettings(loads=(2.0, 3.5), draft="off")),
        ("idle --with-turn 0", IdleSettings(with_turn=0)),
    ],
)
def test_options_are_settings(words: str, settings: object) -> None:
    assert settings_of(type(settings), parsed(words.split())) == settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("crowd --target missing", "model folder missing does not exist"),
        ("idle --draft-model missing", "model folder missing does not exist"),
        ("crowd --sessions 2", "sessions must be more than the 3 slots"),
        ("crowd --first-tokens 5000", "a session would hold"),
        ("overload --prompt-tokens 5000", "a session would hold"),
        ("idle --prompt-tokens 5000", "a session would hold"),
        ("parking --compile fast", "compile must be one of"),
        ("parking --lengths 5000", "lengths must be 1 to 4096"),
        ("parking --widen -1", "widen must be a number of at least 0"),
        ("crowd --widen nan", "widen must be a number of at least 0"),
    ],
)
def test_bad_input_ends_in_one_line(words: str, message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "outrider_bench.sessions", *words.split()]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert outcome.returncode == 2
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"outrider-server: {message}")
    assert outcome.stdout == ""
