"""What a chat consists of: messages, and what a model's template reads beside them.

Owns these values, their rules, and their JSON, which is the form that templates read and the ledger
keeps. Must not know templates, tokens or the wire.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from outrider_server.core.errors import InvalidRequest

ROLES = ("system", "developer", "user", "assistant", "tool")
TEXT_PART = "text"
MAX_MESSAGES = 10_000
MAX_JSON_CHARACTERS = 2**20
MAX_JSON_DEPTH = 32
RESERVED_OPTIONS = frozenset(
    (
        *("messages", "tools", "documents", "add_generation_prompt"),
        *("bos_token", "eos_token", "pad_token", "unk_token"),
        *("raise_exception", "strftime_now", "outrider_steps"),
        *("cycler", "dict", "joiner", "lipsum", "namespace", "range"),
        *("caller", "kwargs", "loop", "self", "super", "varargs"),
    )
)
"""What a template gets from the service or from its engine, whatever a request says."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant made: `arguments` is a JSON object, or text for templates that write
    it as it is."""

    name: str
    arguments: Any
    id: str = ""

    def __post_init__(self) -> None:
        """Raises InvalidRequest."""
        if not self.name:
            _refuse("a tool call must name its function")
        if not isinstance(self.arguments, (dict, str)):
            _refuse("the arguments of a tool call must be a JSON object, or a JSON string")

    def as_json(self) -> dict[str, Any]:
        """The object that templates read."""
        call = {
            "type": "function",
            "function": {"name": self.name, "arguments": self.arguments},
        }
        return {"id": self.id, **call} if self.id else call

    @classmethod
    def of_json(cls, call: Mapping[str, Any]) -> ToolCall:
        """The inverse of `as_json`."""
        function = call["function"]
        return cls(function["name"], function["arguments"], call.get("id", ""))


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message of a chat. Content is a text, or texts that were sent as parts."""

    role: str
    content: str | tuple[str, ...] = ""
    reasoning_content: str | None = None
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    def __post_init__(self) -> None:
        """Raises InvalidRequest."""
        if self.role not in ROLES:
            _refuse(f"the role of a chat message must be one of {', '.join(ROLES)}")
        if self.tool_calls and self.role != "assistant":
            _refuse(f"tool_calls belong to the role assistant, not {self.role}")
        if self.reasoning_content is not None and self.role != "assistant":
            _refuse(f"reasoning_content belongs to the role assistant, not {self.role}")
        if self.tool_call_id and self.role != "tool":
            _refuse(f"tool_call_id belongs to the role tool, not {self.role}")

    @property
    def texts(self) -> tuple[str, ...]:
        """What it says."""
        return (self.content,) if isinstance(self.content, str) else self.content

    @property
    def size(self) -> int:
        """Characters of what it says and thinks."""
        return sum(map(len, self.texts)) + len(self.reasoning_content or "")

    def as_json(self) -> dict[str, Any]:
        """The object that templates read; what is not set is left out."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if isinstance(self.content, tuple):
            message["content"] = [{"type": TEXT_PART, "text": part} for part in self.content]
        if self.reasoning_content is not None:
            message["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            message["tool_calls"] = [call.as_json() for call in self.tool_calls]
        optional = {"name": self.name, "tool_call_id": self.tool_call_id}
        return message | {name: value for name, value in optional.items() if value}

    @classmethod
    def of_json(cls, message: Mapping[str, Any]) -> ChatMessage:
        """The inverse of `as_json`."""
        content = message["content"]
        return cls(
            role=message["role"],
            content=content if isinstance(content, str) else tuple(p["text"] for p in content),
            reasoning_content=message.get("reasoning_content"),
            name=message.get("name", ""),
            tool_calls=tuple(map(ToolCall.of_json, message.get("tool_calls", ()))),
            tool_call_id=message.get("tool_call_id", ""),
        )


@dataclass(frozen=True, slots=True)
class ChatContext:
    """What a template reads beside the messages: JSON, of no meaning to the service."""

    tools: tuple[Any, ...] = ()
    documents: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises InvalidRequest."""
        for kind, values in (("tools", self.tools), ("documents", self.documents)):
            if not all(isinstance(value, dict) for value in values):
                _refuse(f"{kind} must hold objects only", f"chat.{kind}")
        for name in self.options:
            if name in RESERVED_OPTIONS:
                problem = f"{name!r}, which the service or the template's engine sets"
            elif not name.isidentifier():
                problem = f"{name!r}, which is no name of a variable"
            else:
                continue
            _refuse(f"template_options cannot set {problem}", "chat.template_options")

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "tools": list(self.tools),
            "documents": list(self.documents),
            "options": dict(self.options),
        }

    @classmethod
    def of_json(cls, context: Mapping[str, Any]) -> ChatContext:
        """The inverse of `as_json`, without options that were recorded before they were reserved."""
        options = {
            name: value
            for name, value in context["options"].items()
            if name not in RESERVED_OPTIONS
        }
        return cls(tuple(context["tools"]), tuple(context["documents"]), options)


@dataclass(frozen=True, slots=True)
class ChatInput:
    """What a turn says: at least one message, and what the template reads beside them."""

    messages: tuple[ChatMessage, ...]
    context: ChatContext = field(default_factory=ChatContext)

    def __post_init__(self) -> None:
        """Raises InvalidRequest."""
        if not self.messages:
            _refuse("chat is empty; send at least one message")

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return {
            "messages": [message.as_json() for message in self.messages],
            "context": self.context.as_json(),
        }

    @classmethod
    def of_json(cls, chat: Mapping[str, Any]) -> ChatInput:
        """The inverse of `as_json`."""
        messages = tuple(map(ChatMessage.of_json, chat["messages"]))
        return cls(messages, ChatContext.of_json(chat["context"]))


def read_json(text: str, name: str, kinds: Mapping[type, str]) -> Any:
    """The JSON that a request carries in the field `name`: a value of one of `kinds`, which have words.

    Raises InvalidRequest: the value must not be too large or too deep, and its texts must be such as
    UTF-8 can carry.
    """
    words = " or ".join(kinds.values())
    if len(text) > MAX_JSON_CHARACTERS:
        _refuse(f"{name} has more than {MAX_JSON_CHARACTERS} characters", name)
    try:
        value = json.loads(text, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode()
        is_deep = _depth(value) > MAX_JSON_DEPTH
    except RecursionError:
        is_deep = True
    except ValueError:
        _refuse(f"{name} is not valid JSON; send {words}", name)
    if is_deep:
        _refuse(f"{name} is nested more than {MAX_JSON_DEPTH} deep", name)
    if type(value) not in kinds:
        _refuse(f"{name} must be {words} in JSON", name)
    return value


def _depth(value: Any) -> int:
    """How deep arrays and objects stand in each other."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _refuse(message: str, field: str = "chat") -> NoReturn:
    raise InvalidRequest(field, message)
