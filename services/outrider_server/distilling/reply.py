"""A reply of the target's, and how it stands in a file: a JSON object a line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Reply:
    """What the target wrote after a prompt, both in its own token ids."""

    source: str
    """Where the prompt is from, in words."""
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    temperature: float
    conversation: int | None = None
    """Which conversation of the run it belongs to; None for one that was given."""

    def line(self) -> str:
        """The reply as a line of a file."""
        content: dict[str, Any] = {
            "source": self.source,
            "prompt": self.prompt,
            "reply": self.tokens,
            "temperature": self.temperature,
        }
        if self.conversation is not None:
            content["conversation"] = self.conversation
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n"


def read_reply(line: str | bytes) -> Reply:
    """The reply of a line. Raises ValueError, which says what is wrong, for what holds none."""
    try:
        content = json.loads(line)
    except ValueError as error:
        raise ValueError("it is no JSON") from error
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    temperature, conversation = content.get("temperature"), content.get("conversation")
    if not isinstance(temperature, int | float) or not 0 <= temperature <= 100:
        raise ValueError("its temperature is no number of 0 to 100")
    if conversation is not None and (type(conversation) is not int or conversation < 0):
        raise ValueError("its conversation is no number")
    return Reply(
        source=str(content.get("source", "")),
        prompt=_ids(content, "prompt"),
        tokens=_ids(content, "reply"),
        temperature=float(temperature),
        conversation=conversation,
    )


def _ids(content: dict[str, Any], name: str) -> tuple[int, ...]:
    ids = content.get(name)
    if not isinstance(ids, list) or not ids or not all(type(each) is int for each in ids):
        raise ValueError(f"its {name} is no list of token ids")
    if min(ids) < 0:
        raise ValueError(f"its {name} has a token id below 0")
    return tuple(ids)
