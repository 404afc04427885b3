"""Questions of a file in Spec-Bench's format (arXiv 2401.07851), and the tokens of a chat with them.

A line is one JSON object: `question_id`, `category`, and `turns`, a list of what the user says in turn.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from outrider_server.core.errors import InvalidRequest, StartupError
from outrider_server.engine.model.formats import described
from outrider_server.engine.model.opening import open_checkpoint
from outrider_server.session.text.chat import ChatTemplate
from outrider_server.session.text.messages import ChatMessage
from outrider_server.session.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Question:
    """What a user says in one chat."""

    name: str
    category: str
    turns: tuple[str, ...]

    def at(self, turn: int) -> str:
        """How a turn of it is called, the first being 0."""
        return f"{self.place}, turn {turn + 1}"

    @property
    def place(self) -> str:
        """How it is called."""
        return f"question {self.name}"


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
    """A model's chat template and tokenizer, as the session service has them."""

    def __init__(self, model: Path) -> None:
        """Raises StartupError for a folder or GGUF file without a chat template."""
        files = open_checkpoint(model).tokenizer()
        if not files.chat_template:
            raise StartupError(f"{described(model)} has no chat template")
        self._template = ChatTemplate(
            files.chat_template,
            files.begin_token,
            files.end_token,
            pad_token=files.pad_token,
            unknown_token=files.unknown_token,
        )
        self._tokenizer = Tokenizer(
            files.tokenizer_json.decode(),
            begin_token=files.begin_token,
            end_token=files.end_token,
            chat_template=files.chat_template,
        )

    def prompt(self, messages: Sequence[ChatMessage]) -> tuple[int, ...]:
        """The messages, and what the assistant's reply begins with. Raises StartupError."""
        try:
            rendered = self._template.render(messages)
        except InvalidRequest as error:
            raise StartupError(f"the chat template takes no such chat: {error}") from error
        return tuple(self._tokenizer.encode_rendered(rendered, begin=True))

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens of a reply say, without its end token."""
        return self._tokenizer.decode(tokens, special=False)
