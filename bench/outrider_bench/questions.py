"""Questions of a file in Spec-Bench's format (arXiv 2401.07851), and the tokens of a chat with them.

A line is one JSON object: `question_id`, `category`, and `turns`, a list of what the user says in turn.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from outrider_server.core.errors import StartupError
from transformers import AutoTokenizer

Message = dict[str, str]


@dataclass(frozen=True, slots=True)
class Question:
    """What a user says in one chat."""

    name: str
    category: str
    turns: tuple[str, ...]


def read_questions(path: Path, per_category: int) -> list[Question]:
    """The first questions of each category, in the file's order; 0 takes all. Raises StartupError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"the questions {path} cannot be read") from error
    taken: Counter[str] = Counter()
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        question = _question(line, f"{path}, line {number}")
        taken[question.category] += 1
        if not per_category or taken[question.category] <= per_category:
            found.append(question)
    if not found:
        raise StartupError(f"{path} holds no questions")
    return found


def _question(line: str, where: str) -> Question:
    try:
        content = json.loads(line)
        name, category, turns = (content[key] for key in ("question_id", "category", "turns"))
    except (ValueError, KeyError, TypeError) as error:
        raise StartupError(f"{where}: no JSON object of question_id, category and turns") from error
    texts = turns if isinstance(turns, list) else []
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise StartupError(f"{where}: turns must be a list of texts")
    return Question(str(name), str(category), tuple(texts))


class ChatTokens:
    """A model's chat template and tokenizer."""

    def __init__(self, folder: Path) -> None:
        """Raises StartupError for a folder without a chat template."""
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not self._tokenizer.chat_template:
            raise StartupError(f"model folder {folder} has no chat template")

    def prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The messages, and what the assistant's reply begins with."""
        found = self._tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=False
        )
        return tuple(found)

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens of a reply say, without its end token."""
        return cast(str, self._tokenizer.decode(list(tokens), skip_special_tokens=True))
