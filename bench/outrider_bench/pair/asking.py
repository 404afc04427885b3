"""What the target is asked: the bundled texts, or questions of a file in chats, turn by turn."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from outrider_server.session.text.messages import ChatMessage

from ..questions import ChatTokens, Question
from .replied import Prompt, Reply

BUNDLED = "held-out Python"
"""The category of the bundled texts."""

Answer = Callable[[Sequence[Prompt]], list[Reply]]
"""Has the target reply to prompts."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The replies, and what was left out."""

    replies: list[Reply]
    notes: list[str]


def ask_texts(texts: Sequence[Sequence[int]], answer: Answer) -> Asked:
    """Has the target go on with texts."""
    prompts = [
        Prompt(f"text {index}", BUNDLED, tuple(text), index + 1) for index, text in enumerate(texts)
    ]
    return Asked(answer(prompts), [])


def ask_questions(
    questions: Sequence[Question], chat: ChatTokens, longest: int, answer: Answer
) -> Asked:
    """Holds a chat for each question, all at one turn; a prompt of more than `longest` tokens ends it."""
    asked = Asked([], [])
    chats: dict[int, list[ChatMessage]] = {index: [] for index in range(len(questions))}
    for turn in itertools.count():
        prompts = {}
        for index, messages in chats.items():
            question = questions[index]
            if turn == len(question.turns):
                continue
            messages.append(ChatMessage("user", question.turns[turn]))
            name, tokens = question.at(turn), chat.prompt(messages)
            if len(tokens) > longest:
                asked.notes.append(f"{name} has {len(tokens)} tokens, too many: left out")
            else:
                prompts[index] = Prompt(name, question.category, tokens, index + 1)
        if not prompts:
            return asked
        replies = answer(list(prompts.values()))
        asked.replies.extend(replies)
        chats = {index: chats[index] for index in prompts}
        for index, reply in zip(prompts, replies, strict=True):
            chats[index].append(ChatMessage("assistant", chat.text(reply.tokens)))
    raise AssertionError("a count has no end")
