"""A forecast from the command to its files, on bundled models; and what is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands_for_tests import Run, refusal
from models_for_tests import save_folder
from outrider_bench.pair import run as pair_run
from outrider_server.models import DRAFT_FOLDER

SHORT = ["--tokens", "24", "--prompts", "3", "--round-trip-ms", "0", "--round-trip-ms", "5"]


@pytest.mark.processes
def test_a_model_as_its_own_draft_is_foretold(
    tmp_path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_run, "SECONDS", 0.2)
    folder = str(DRAFT_FOLDER)
    outcome = run_command("bench", "pair", folder, folder, *SHORT, "--output", str(tmp_path))
    assert outcome.status == 0
    lines = outcome.stdout.splitlines()
    assert lines[4].startswith("| greedy | ")
    assert lines[4].endswith(" | " + " | ".join(["1.000"] * 9) + " |")
    assert (tmp_path / "pair.md").read_text() == outcome.stdout
    suite = json.loads((tmp_path / "results.json").read_bytes())["suites"]["pair"]
    assert [each["round_trip_ms"] for each in suite["series"]["forecasts"]] == [0.0, 5.0] * 3
    assert {each["agreed"] for each in suite["series"]["replies"]} <= {"1" * n for n in range(25)}
    times = suite["series"]["times"]
    assert len(times["target"]["step_ms"]) == 8
    assert times["outside_ms"] > 0


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of another vocabulary."""
    return save_folder(tmp_path_factory.mktemp("models") / "other")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("missing missing", "model folder missing does not exist"),
        ("{draft} missing.gguf", "model file missing.gguf does not exist"),
        ("{draft} {draft} --questions missing", "the questions missing cannot be read"),
        ("{draft} {draft} --questions broken", "broken, line 1: no JSON object of question_id"),
        ("{draft} {draft} --tokens 0", "tokens must be 8 to 4095"),
        ("{draft} {draft} --prompts 0", "prompts must be at least 1"),
        ("{draft} {draft} --temperature -1", "temperature must be 0 to 100"),
        ("{draft} {draft} --round-trip-ms -1", "round trip ms must be 0 to 10000"),
        ("{draft} {draft} --widen nan", "widen must be a number of at least 0"),
        ("{draft} other", "the draft other has another vocabulary than the target"),
    ],
)
def test_what_cannot_be_foretold_is_told_in_one_line(
    words: str, message: str, other: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(other.parent)
    Path("broken").write_text("{}\n")
    outcome = run_command("bench", "pair", *words.format(draft=DRAFT_FOLDER).split())
    assert refusal(outcome).startswith(f"outrider-server: {message}")
