"""A user's chat messages, and what goes with them, to the chat of a request, and messages back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from outrider._checks import invalid, text
from outrider.types import ChatMessage, ToolCall
from outrider.v1 import session_pb2

_FIELDS = frozenset(field.name for field in fields(ChatMessage))


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
        given = {name: value for name, value in item.items() if value is not None}
        if "role" not in given or not given.keys() & {"content", "tool_calls"}:
            raise invalid("input", 'has chat messages of "role" and "content"', item)
        if unknown := given.keys() - _FIELDS:
            raise invalid("input", f"has chat messages without {min(map(str, unknown))!r}", item)
        item = ChatMessage(**given)
    if not isinstance(item, ChatMessage):
        raise invalid("input", "is chat messages throughout, or none", item)
    message = session_pb2.ChatMessage(
        role=text("input.role", item.role),
        name=text("input.name", item.name),
        tool_calls=map(_tool_call, _several("input.tool_calls", item.tool_calls)),
        tool_call_id=text("input.tool_call_id", item.tool_call_id),
    )
    if item.reasoning_content is not None:
        message.reasoning_content = text("input.reasoning_content", item.reasoning_content)
    if isinstance(item.content, str):
        message.content = text("input.content", item.content)
    else:
        message.parts.extend(map(_part, _several("input.content", item.content)))
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
        raise invalid("input.content", 'has parts of the form {"type": "text", "text": ...}', part)
    written = part["text"] if kind in ("", "text") else ""
    return session_pb2.ContentPart(type=kind, text=text("input.content", written))


def _tool_call(call: object) -> session_pb2.ToolCall:
    field = "input.tool_calls"
    if isinstance(call, Mapping):
        function = call.get("function")
        if not isinstance(function, Mapping) or "name" not in function:
            raise invalid(field, 'has calls of the form {"function": {"name": ...}}', call)
        identifier = call.get("id")
        arguments = function.get("arguments", {})
        call = ToolCall(function["name"], arguments, "" if identifier is None else identifier)
    if not isinstance(call, ToolCall):
        raise invalid(field, "is tool calls", call)
    return session_pb2.ToolCall(
        id=text(field, call.id), name=text(field, call.name), arguments=_json(field, call.arguments)
    )


def _several(field: str, values: object) -> Iterable[Any]:
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise invalid(field, "is a list", values)
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
