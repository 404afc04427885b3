"""Questions of a file, the chats that they make, and what is told of the answers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from outrider_bench.question_tables import (
    chosen_notes,
    first_token_ms,
    harmonic_speed,
    question_series,
    question_tables,
    tokens_a_step,
)
from outrider_bench.questions import ChatTokens, Question, read_questions
from outrider_bench.questions_run import Asked
from outrider_bench.tasks import Measurement, Outcome, Task
from outrider_server.core.errors import StartupError
from outrider_server.models import DRAFT_FOLDER
from outrider_server.session.text.messages import ChatMessage

LINES = [
    {"question_id": 81, "category": "writing", "turns": ["One.", "Two."]},
    {"question_id": 82, "category": "writing", "turns": ["Three."]},
    {"question_id": 90, "category": "math", "turns": ["1 + 1?"], "reference": ["2"]},
]
TEMPLATE = "{% for message in messages %}{{ message['role'] + message['content'] }}{% endfor %}"


@pytest.fixture
def chat(tmp_path: Path) -> ChatTokens:
    folder = shutil.copytree(DRAFT_FOLDER, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return ChatTokens(folder)


def questions_file(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def answered(system: str, name: str, count: int, seconds: float, **details: int) -> Measurement:
    """A turn of so many tokens, the first of its question unless the name says another."""
    whole = name if "," in name else f"{name}, turn 1"
    task = Task(f"question {whole}", (1,), 99, 0.0, 1, chat=True)
    outcome = Outcome((5,) * count, seconds, first_seconds=seconds / 10, details=details)
    return Measurement(system, task, outcome)


def test_questions_are_read_in_order(tmp_path: Path) -> None:
    found = read_questions(questions_file(tmp_path / "q.jsonl", *LINES), 0)
    assert found[0] == Question("81", "writing", ("One.", "Two."))
    assert [question.name for question in found] == ["81", "82", "90"]


def test_the_first_of_each_category_may_do(tmp_path: Path) -> None:
    found = read_questions(questions_file(tmp_path / "q.jsonl", *LINES), 1)
    assert [question.name for question in found] == ["81", "90"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"question_id": 1, "turns": ["a"]}, "line 1: no JSON object of question_id, category"),
        ([1], "line 1: no JSON object"),
        ({"question_id": 1, "category": "c", "turns": "a"}, "line 1: turns must be a list"),
        ({"question_id": 1, "category": "c", "turns": []}, "line 1: turns must be a list"),
        ({"question_id": 1, "category": "c", "turns": [3]}, "line 1: turns must be a list"),
    ],
)
def test_a_line_that_is_no_question_is_told_by_its_number(
    line: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(StartupError, match=re.escape(message)):
        read_questions(questions_file(tmp_path / "q.jsonl", line), 0)


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="holds no questions"):
        read_questions(questions_file(tmp_path / "q.jsonl"), 0)


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(DRAFT_FOLDER, tmp_path / "model")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(StartupError, match="has no chat template"):
        ChatTokens(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    chat = ChatTokens(folder)
    assert chat.text(chat.prompt([ChatMessage("user", "Hi")])) == "userHi"


def test_slow_turns_count_as_they_are_felt() -> None:
    """10 tokens at 10/s and 10 at 30/s: the harmonic mean of the two speeds is 15."""
    found = [answered("a", "81", 10, 1.0), answered("a", "82", 10, 1 / 3)]
    assert harmonic_speed(found) == pytest.approx(15)
    assert first_token_ms(found) == pytest.approx((100 + 100 / 3) / 2)
    assert harmonic_speed([]) is None


def test_a_step_brings_its_own_token_and_those_accepted() -> None:
    found = [answered("a", "81", 10, 1.0, accepted=6), answered("a", "82", 6, 1.0, accepted=2)]
    assert tokens_a_step(found) == 2.0
    assert tokens_a_step([*found, answered("a", "90", 6, 1.0)]) is None


def test_tables_have_a_row_for_each_system_and_a_column_for_each_category() -> None:
    found = [
        answered("outrider off", "81", 10, 1.0, accepted=0),
        answered("outrider off", "90", 10, 0.5, accepted=0),
        answered("llama.cpp plain", "81", 10, 2.0),
    ]
    lines = question_tables(found, {"question 81": "writing", "question 90": "math"}, 0.0)
    assert lines[:4] == [
        "tokens/s, harmonic mean of turns, greedy",
        "",
        "| system | all | writing | math |",
        "|---|---:|---:|---:|",
    ]
    assert lines[4:6] == [
        "| outrider off | 13.3 | 10.0 | 20.0 |",
        "| llama.cpp plain | 5.0 | 5.0 |  |",
    ]


CATEGORIES = {"question 81": "writing", "question 90": "math"}


def rows_of(lines: Sequence[str], title: str) -> dict[str, list[str]]:
    """The cells of the table under a title, by its first column."""
    first = lines.index(title) + 2
    rows = [line.strip("| ").split(" | ") for line in lines[first : lines.index("", first)]]
    return {cells[0]: cells[1:] for cells in rows if not cells[0].startswith("---")}


def test_ratios_are_taken_turn_by_turn_and_later_turns_stand_alone() -> None:
    found = [
        answered("outrider off", "81", 10, 1.0),
        answered("outrider off", "81, turn 2", 10, 1.0),
        answered("outrider auto", "81", 10, 0.5),
        answered("outrider auto", "81, turn 2", 10, 0.25),
        answered("llama.cpp plain", "81", 10, 2.0),
        answered("llama.cpp draft 3", "81", 10, 1.0, guesses=3),
    ]
    lines = question_tables(found, CATEGORIES, 0.0)
    own = rows_of(lines, "times as fast as the same software without guesses, greedy")
    assert own["system"] == ["all", "first turns", "later turns", "writing", "math"]
    assert own["outrider auto"][:3] == [
        "3.00 (2.50 to 3.50)",
        "2.00 (2.00 to 2.00)",
        "4.00 (4.00 to 4.00)",
    ]
    assert own["llama.cpp draft 3"][:2] == ["2.00 (2.00 to 2.00)"] * 2
    assert set(own) == {"system", "outrider auto", "llama.cpp draft 3"}
    against = rows_of(lines, "outrider auto / the system, greedy")
    assert against["llama.cpp plain"][0] == "4.00 (4.00 to 4.00)"
    assert "outrider auto" not in against
    assert chosen_notes(found, 0.0) == ["at 0: llama.cpp draft 3 with guesses 3"]
    assert chosen_notes(found, 0.7) == []


def test_charts_get_ratios_by_category_and_speeds_by_system() -> None:
    found = [
        answered("outrider off", "81", 10, 1.0),
        answered("outrider auto", "81", 10, 0.5),
        answered("outrider auto", "90", 10, 0.5),
    ]
    series = question_series(found, CATEGORIES, [0.0])
    assert series["categories"] == [{"temperature": 0.0, "category": "writing", "ratios": [2.0]}]
    assert {point["system"]: point["tokens_per_second"] for point in series["systems"]} == {
        "outrider off": [10.0],
        "outrider auto": [20.0, 20.0],
    }


class Parrot:
    """A system that answers with tokens of its own, and keeps what it was asked."""

    def __init__(self, name: str, reply: Sequence[int]) -> None:
        self.name = name
        self.tasks: list[Task] = []
        self._reply = tuple(reply)

    async def run(self, task: Task) -> Outcome:
        self.tasks.append(task)
        return Outcome(self._reply, 1.0)


async def test_all_systems_are_asked_alike_and_later_turns_follow_the_targets_reply(
    chat: ChatTokens,
) -> None:
    said = chat.prompt([ChatMessage("user", "Yes")])[len(chat.prompt([ChatMessage("user", "")])) :]
    alone, other = Parrot("outrider off", said), Parrot("peer", (1, 1))
    asked = Asked(chat, [other, alone], tokens=4, temperature=0.0, context=512)
    found = await asked.answers(Question("81", "writing", ("One.", "Two.")), 3)
    assert alone.tasks == other.tasks
    assert len(found) == 4
    assert chat.text(alone.tasks[1].prompt) == "userOne.assistantYesuserTwo."
    assert all(task.chat and task.seed == 4 for task in alone.tasks)


async def test_a_turn_that_does_not_fit_is_left_out_and_noted(chat: ChatTokens) -> None:
    asked = Asked(chat, [], tokens=4, temperature=0.0, context=8)
    assert await asked.answers(Question("81", "writing", ("Much too long.",)), 0) == []
    assert asked.notes[0].startswith("question 81, turn 1 has ")
