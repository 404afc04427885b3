"""The public messages: records, rounds and summaries as protos."""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from outrider.v1 import session_pb2

from ..core.errors import InvalidRequest
from ..core.limits import MAX_TTL_SECONDS
from ..core.types import FinishReason, Round, TokenSource
from ..rpc.wire import logprobs_to_proto
from .ledger.ledger import SessionRecord
from .tally import TurnStarted, TurnSummary
from .text.messages import (
    MAX_MESSAGES,
    TEXT_PART,
    ChatContext,
    ChatInput,
    ChatMessage,
    ToolCall,
    read_json,
)

_SOURCES = {
    TokenSource.DRAFT: session_pb2.TOKEN_SOURCE_DRAFT,
    TokenSource.NGRAM: session_pb2.TOKEN_SOURCE_NGRAM,
    TokenSource.TARGET: session_pb2.TOKEN_SOURCE_TARGET,
}
_FINISH_REASONS = {
    FinishReason.END_TOKEN: session_pb2.FINISH_REASON_END_TOKEN,
    FinishReason.STOP_STRING: session_pb2.FINISH_REASON_STOP_STRING,
    FinishReason.LENGTH: session_pb2.FINISH_REASON_LENGTH,
    FinishReason.CANCELLED: session_pb2.FINISH_REASON_CANCELLED,
    FinishReason.FAILED: session_pb2.FINISH_REASON_FAILED,
}


def ttl_from_proto(request: session_pb2.CreateSessionRequest) -> int | None:
    """How long the new session is to live, in seconds; None leaves it to the ledger.

    Raises InvalidRequest.
    """
    if not request.HasField("ttl"):
        return None
    ttl = request.ttl
    if ttl.nanos or not 0 <= ttl.seconds <= MAX_TTL_SECONDS:
        raise InvalidRequest(
            "ttl", f"ttl must be 0 to {MAX_TTL_SECONDS} whole seconds; 0 never expires"
        )
    return ttl.seconds


def chat_from_proto(chat: session_pb2.ChatInput) -> ChatInput:
    """The chat of a turn. Raises InvalidRequest."""
    count = len(chat.messages)
    if count <= MAX_MESSAGES:
        count += sum(len(entry.parts) + len(entry.tool_calls) for entry in chat.messages)
    if count > MAX_MESSAGES:
        raise InvalidRequest(
            "chat",
            f"chat must have at most {MAX_MESSAGES} messages, parts and tool calls together",
        )
    array: dict[type, str] = {list: "an array"}
    table: dict[type, str] = {dict: "an object"}
    context = ChatContext(
        tools=tuple(read_json(chat.tools or "[]", "chat.tools", array)),
        documents=tuple(read_json(chat.documents or "[]", "chat.documents", array)),
        options=read_json(chat.template_options or "{}", "chat.template_options", table),
    )
    return ChatInput(tuple(map(_message_from_proto, chat.messages)), context)


def json_size(chat: session_pb2.ChatInput) -> int:
    """Characters of all the JSON that a chat brings along."""
    calls = sum(len(call.arguments) for entry in chat.messages for call in entry.tool_calls)
    return calls + len(chat.tools) + len(chat.documents) + len(chat.template_options)


def _message_from_proto(message: session_pb2.ChatMessage) -> ChatMessage:
    for part in message.parts:
        if part.type not in ("", TEXT_PART):
            raise InvalidRequest(
                "chat", f"the model reads text, not content parts of type {part.type[:40]!r}"
            )
    content = message.content  # each look at it makes it anew
    if content and message.parts:
        raise InvalidRequest("chat", "a chat message must have content or parts, not both")
    return ChatMessage(
        role=message.role,
        content=tuple(part.text for part in message.parts) or content,
        reasoning_content=(
            message.reasoning_content if message.HasField("reasoning_content") else None
        ),
        name=message.name,
        tool_calls=tuple(
            ToolCall(call.name, _arguments(call.arguments), call.id) for call in message.tool_calls
        ),
        tool_call_id=message.tool_call_id,
    )


def message_to_proto(message: ChatMessage) -> session_pb2.ChatMessage:
    """A message of a conversation."""
    content = message.content
    parts = content if isinstance(content, tuple) else ()
    return session_pb2.ChatMessage(
        role=message.role,
        content="" if isinstance(content, tuple) else content,
        parts=[session_pb2.ContentPart(type=TEXT_PART, text=part) for part in parts],
        reasoning_content=message.reasoning_content,
        name=message.name,
        tool_calls=[
            session_pb2.ToolCall(
                id=call.id, name=call.name, arguments=json.dumps(call.arguments, ensure_ascii=False)
            )
            for call in message.tool_calls
        ],
        tool_call_id=message.tool_call_id,
    )


def _arguments(text: str) -> Any:
    kinds: dict[type, str] = {dict: "an object", str: "a string"}
    return read_json(text or "{}", "chat.messages.tool_calls.arguments", kinds)


def session_to_proto(record: SessionRecord, running: bool) -> session_pb2.Session:
    """A session."""
    return session_pb2.Session(
        session_id=record.session_id,
        position=record.length,
        turn_count=record.turn_count,
        turn_running=running,
        model_fingerprint=record.model_fingerprint,
        create_time=_timestamp(record.created_us),
        update_time=_timestamp(record.updated_us),
        ttl=Duration(seconds=record.ttl_seconds) if record.ttl_seconds else None,
        expire_time=None if record.expires_us is None else _timestamp(record.expires_us),
    )


def started_to_proto(started: TurnStarted) -> session_pb2.GenerateEvent:
    """The first event of a turn."""
    return session_pb2.GenerateEvent(
        started=session_pb2.TurnStarted(
            request_id=started.request_id,
            prompt_tokens=started.prompt_tokens,
            start_position=started.start_position,
            seed=started.seed,
            kept_tokens=started.kept_tokens,
            rewound_tokens=started.rewound_tokens,
        )
    )


def round_to_proto(decided: Round, first_index: int) -> session_pb2.GenerateEvent:
    """The tokens of a round; the first has index `first_index`."""
    logprobs = decided.logprobs or (None,) * len(decided.tokens)
    return session_pb2.GenerateEvent(
        tokens=session_pb2.TokenEvents(
            events=[
                session_pb2.TokenEvent(
                    index=first_index + offset,
                    token=token,
                    text=text,
                    source=_SOURCES[source],
                    logprobs=None if entry is None else logprobs_to_proto(entry),
                )
                for offset, (token, text, source, entry) in enumerate(
                    zip(decided.tokens, decided.texts, decided.sources, logprobs, strict=True)
                )
            ]
        )
    )


def summary_to_proto(summary: TurnSummary) -> session_pb2.GenerateEvent:
    """The last event of a turn."""
    return session_pb2.GenerateEvent(
        summary=session_pb2.TurnSummary(
            finish_reason=_FINISH_REASONS[summary.finish_reason],
            seed=summary.seed,
            rounds=summary.rounds,
            proposed=summary.proposed,
            accepted=summary.accepted,
            tokens=summary.tokens,
            prompt_tokens=summary.prompt_tokens,
            prefilled_tokens=summary.prefilled_tokens,
            ttft_ms=summary.ttft_ms,
            duration_ms=summary.duration_ms,
            degraded=summary.degraded,
            degraded_reason=summary.degraded_reason,
            position=summary.position,
            target_ms=summary.target_ms,
            verify_ms=summary.verify_ms,
            draft_ms=summary.draft_ms,
            guessed=summary.guessed,
            draft_wait_ms=summary.draft_wait_ms,
            kept_tokens=summary.kept_tokens,
            rewound_tokens=summary.rewound_tokens,
        )
    )


def _timestamp(microseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(microseconds)
    return stamp
