"""Prompts of files: a JSON object a line, with `prompt`, `messages`, or `turns` as Spec-Bench has them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..core.errors import InvalidRequest, StartupError
from ..session.text.messages import ChatMessage

ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is said to the target in one conversation."""

    source: str
    said: tuple[tuple[ChatMessage, ...], ...]
    """By reply, the messages that come before it and after the reply before."""


def read_prompts(paths: Iterable[Path]) -> list[Prompt]:
    """All prompts of the files, in order. Raises StartupError for a file or a line without one."""
    return [prompt for path in paths for prompt in _read(path)]


def _read(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise StartupError(f"the prompts {path} are not UTF-8") from error
    except OSError as error:
        raise StartupError(f"the prompts {path} cannot be read: {error.strerror}") from error
    prompts = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                prompts.append(_prompt(json.loads(line), path.name))
            except (ValueError, InvalidRequest) as error:
                reason = error if isinstance(error, InvalidRequest | _Unfit) else "it is no JSON"
                raise StartupError(f"{path}, line {number}: {reason}") from error
    if not prompts:
        raise StartupError(f"{path} holds no prompts")
    return prompts


class _Unfit(ValueError):
    """A line holds JSON, but no prompt."""


def _prompt(content: Any, file: str) -> Prompt:
    if not isinstance(content, dict):
        raise _Unfit("it is no JSON object")
    source = content.get("source")
    messages = _messages(content)
    said = tuple(
        tuple(group)
        for is_reply, group in groupby(messages, lambda message: message.role == ASSISTANT)
        if not is_reply
    )
    if not said:
        raise _Unfit("nobody says anything to the target")
    return Prompt(source if isinstance(source, str) else file, said)


def _messages(content: dict[str, Any]) -> list[ChatMessage]:
    """All messages; between the turns of a user, replies that are still to be written."""
    if isinstance(content.get("prompt"), str):
        return [_message({"role": "user", "content": content["prompt"]})]
    turns, messages = content.get("turns"), content.get("messages")
    if isinstance(turns, list):
        said = [_message({"role": "user", "content": turn}) for turn in turns]
        return [each for one in said for each in (one, ChatMessage(ASSISTANT))]
    if isinstance(messages, list):
        return [_message(message) for message in messages]
    raise _Unfit("it has neither a text `prompt` nor a list of `messages` or `turns`")


def _message(message: Any) -> ChatMessage:
    if not isinstance(message, dict):
        raise _Unfit("a message is no JSON object")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if message.get("role") != ASSISTANT and not (isinstance(content, str) and content.strip()):
        raise _Unfit("a message says nothing")
    return ChatMessage(str(message.get("role")), content if isinstance(content, str) else "")
