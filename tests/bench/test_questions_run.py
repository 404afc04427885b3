"""Questions from the command to its files, on real services with a bundled model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands_for_tests import Run
from outrider_server.models import DRAFT_FOLDER

QUESTIONS = [
    {"question_id": 1, "category": "writing", "turns": ["def add(one, other):", "again"]},
    {"question_id": 2, "category": "math", "turns": ["import math"]},
]
TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


@pytest.mark.processes
def test_a_chat_is_measured_at_every_temperature(tmp_path: Path, run_command: Run) -> None:
    folder = shutil.copytree(DRAFT_FOLDER, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    file, output = tmp_path / "questions.jsonl", tmp_path / "out"
    file.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    words = ["questions", str(file), "--target", str(folder), "--draft", str(DRAFT_FOLDER)]
    outcome = run_command("bench", *words, "--tokens", "16", "--no-peers", "--output", str(output))
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == "0 differences between Outrider's own"
    suite = json.loads((output / "results.json").read_bytes())["suites"]["questions"]
    assert suite["differences"] == 0
    asked = {
        (turn["system"], turn["temperature"], turn["prompt"]) for turn in suite["measurements"]
    }
    assert len(asked) == 4 * 3 * 3
    assert {name for _, _, name in asked} == {
        "question 1, turn 1",
        "question 1, turn 2",
        "question 2, turn 1",
    }
    told = (output / "questions.md").read_text()
    for temperature in ("greedy", "at 0.7", "at 1"):
        assert f"times as fast as the same software without guesses, {temperature}" in told
    charts = {path.name for path in (output / "charts").iterdir()}
    assert charts == {"speed-up-by-category.png", "speed-by-system.png"}
