"""A user's chat messages, and what goes with them, to the chat of a request, and messages back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from outrider._checks import NO_LIST, invalid, refused, text
from outrider.types import ChatMessage, ToolCall
from outrider.v1 import session_pb2

_FIELDS = tuple(field.name for field in fields(ChatMessage))
_PARTS = 'parts of the form {"type": "text", "text": ...}'
_CALLS = 'calls of the form {"function": {"name": ..., "arguments": ...}}'


def chat_input(
    items: Iterable[object],
    *,
    tools: object = None,
    documents: object = None,
    template_options: object = None,
) -> session_pb2.ChatInput:
    """The chat of a turn. Raises `InvalidRequestError` naming the field."""
    return session_pb2.ChatInput(
        messages=map(_message, items),
        tools=_json("tools", tools),
        documents=_json("documents", documents),
        template_options=_json("template_options", template_options),
    )


def _message(item: object) -> session_pb2.ChatMessage:
    if isinstance(item, Mapping):
        if item.get("role") is None:
            raise invalid("input", 'has chat messages of "role" and "content"', item)
        if unknown := item.keys() - set(_FIELDS):
            has = f"{min(map(str, unknown))!r}; it has {', '.join(_FIELDS)}"
            raise refused("input", f"a chat message has no field {has}")
        given = {name: value for name, value in item.items() if value is not None}
        item = ChatMessage(**{"content": None, **given})
    if not isinstance(item, ChatMessage):
        raise invalid("input", "begins with a chat message, so it holds only these", item)
    tool_calls = list(_several("input.tool_calls", item.tool_calls, f"a list of {_CALLS}"))
    message = session_pb2.ChatMessage(
        role=text("input.role", item.role),
        name=text("input.name", item.name),
        tool_calls=map(_tool_call, tool_calls),
        tool_call_id=text("input.tool_call_id", item.tool_call_id),
    )
    if item.reasoning_content is not None:
        message.reasoning_content = text("input.reasoning_content", item.reasoning_content)
    content: object = item.content
    if isinstance(content, str):
        message.content = text("input.content", content)
    elif content is not None:
        parts = _several("input.content", content, f"text, or a list of {_PARTS}")
        message.parts.extend(map(_part, parts))
    elif not tool_calls:
        raise refused(
            "input.content",
            f"a chat message of {item.role!r} has no content: give it text, which may be empty; "
            "only one with tool_calls does without",
        )
    return message


def chat_message(message: session_pb2.ChatMessage) -> ChatMessage:
    """A message that the service sent."""
    return ChatMessage(
        role=message.role,
        content=[{"type": "text", "text": part.text} for part in message.parts] or message.content,
        reasoning_content=(
            message.reasoning_content if message.HasField("reasoning_content") else None
        ),
        name=message.name,
        tool_calls=tuple(
            ToolCall(call.name, json.loads(call.arguments), call.id) for call in message.tool_calls
        ),
        tool_call_id=message.tool_call_id,
    )


def _part(part: object) -> session_pb2.ContentPart:
    """Of a part that is not text only the type is sent: the service says what it makes of it."""
    kind = text("input.content", part.get("type", "")) if isinstance(part, Mapping) else ""
    if not isinstance(part, Mapping) or (kind in ("", "text") and "text" not in part):
        raise invalid("input.content", f"has {_PARTS}", part)
    written = part["text"] if kind in ("", "text") else ""
    return session_pb2.ContentPart(type=kind, text=text("input.content", written))


def _tool_call(call: object) -> session_pb2.ToolCall:
    field = "input.tool_calls"
    if isinstance(call, Mapping):
        function = call.get("function")
        if not isinstance(function, Mapping) or "name" not in function:
            raise invalid(field, f"has {_CALLS}", call)
        identifier = call.get("id")
        arguments = function.get("arguments", {})
        call = ToolCall(function["name"], arguments, "" if identifier is None else identifier)
    if not isinstance(call, ToolCall):
        raise invalid(field, f"has {_CALLS}", call)
    return session_pb2.ToolCall(
        id=text(field, call.id), name=text(field, call.name), arguments=_json(field, call.arguments)
    )


def _several(field: str, values: object, wanted: str) -> Iterable[Any]:
    if isinstance(values, NO_LIST) or not isinstance(values, Iterable):
        raise invalid(field, f"is {wanted}", values)
    return values


def _json(field: str, value: object) -> str:
    """Empty for None. The service checks what the value may be."""
    if value is None:
        return ""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise invalid(field, "is what JSON can carry", value) from None
    return text(field, written)
