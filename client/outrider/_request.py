"""A user's arguments to the request of a turn.

Refuses only what a message cannot carry, such as a negative seed or an unknown draft mode; every
other range is the service's to check, so that one rule stands in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.duration_pb2 import Duration

from outrider._chat import chat_input
from outrider._checks import (
    NO_LIST,
    choice,
    flag,
    int32,
    int32s,
    integer,
    invalid,
    number,
    refused,
    sized_integer,
    text,
    texts,
)
from outrider.types import ChatMessage
from outrider.v1 import session_pb2, types_pb2

_DRAFT_MODES = {
    "auto": session_pb2.DRAFT_MODE_AUTO,
    "model": session_pb2.DRAFT_MODE_MODEL,
    "ngram": session_pb2.DRAFT_MODE_NGRAM,
    "off": session_pb2.DRAFT_MODE_OFF,
}

_LOOP_MODES = {
    "run_ahead": session_pb2.LOOP_MODE_RUN_AHEAD,
    "synchronous": session_pb2.LOOP_MODE_SYNCHRONOUS,
    "adaptive": session_pb2.LOOP_MODE_ADAPTIVE,
}


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends a turn beside its length, and from when on."""

    stop: str | Iterable[str]
    stop_token_ids: Iterable[int]
    ignore_end_tokens: bool
    min_new_tokens: int | None


def create_request(ttl_seconds: object) -> session_pb2.CreateSessionRequest:
    """The request of a new session. Raises `InvalidRequestError` naming the field."""
    request = session_pb2.CreateSessionRequest()
    if ttl_seconds is not None:
        seconds = sized_integer("ttl_seconds", ttl_seconds, 64)
        request.ttl.CopyFrom(Duration(seconds=seconds))
    return request


def generate_request(
    session_id: str,
    content: object,
    sampling: types_pb2.SamplingParams,
    *,
    max_new_tokens: int | None,
    seed: int | None,
    draft: str,
    max_window: int | None,
    logprobs: int | None,
    request_id: str | None,
    loop: str | None,
    ends: Ends,
    parse_control_tokens: bool,
    tools: object,
    documents: object,
    template_options: object,
) -> session_pb2.GenerateRequest:
    """The request of one turn. Raises `InvalidRequestError` naming the field."""
    request = session_pb2.GenerateRequest(session_id=session_id, sampling=sampling)
    _set_input(
        request, content, tools=tools, documents=documents, template_options=template_options
    )
    for field, value in (
        ("max_new_tokens", max_new_tokens),
        ("max_window", max_window),
        ("logprobs", logprobs),
        ("min_new_tokens", ends.min_new_tokens),
    ):
        if value is not None:
            setattr(request, field, int32(field, value))
    if seed is not None:
        request.seed = checked_seed(seed)
    request.stop.extend(texts("stop", ends.stop))
    request.stop_token_ids.extend(int32s("stop_token_ids", ends.stop_token_ids))
    request.ignore_end_tokens = flag("ignore_end_tokens", ends.ignore_end_tokens)
    request.draft = choice("draft", draft, _DRAFT_MODES)
    request.parse_control_tokens = flag("parse_control_tokens", parse_control_tokens)
    if request_id is not None:
        request.request_id = text("request_id", request_id)
    if loop is not None:
        request.loop = choice("loop", loop, _LOOP_MODES)
    return request


def sampling_params(
    *, logit_bias: Mapping[int, float] | None, **values: float | None
) -> types_pb2.SamplingParams:
    """How the target draws; None stays unset. Raises `InvalidRequestError` naming the field."""
    params = types_pb2.SamplingParams()
    for name, value in values.items():
        if value is not None:
            read: Callable[[str, object], float] = int32 if name == "top_k" else number
            setattr(params, name, read(f"sampling.{name}", value))
    if logit_bias is not None:
        field = "sampling.logit_bias"
        if not isinstance(logit_bias, Mapping):
            raise invalid(field, "maps token ids to numbers", logit_bias)
        for token, bias in logit_bias.items():
            identifier = int32(field, token, noun=f"a token id of {field}")
            params.logit_bias[identifier] = number(field, bias, noun=f"a bias of {field}")
    return params


def checked_seed(value: object) -> int:
    """A seed to send. Raises `InvalidRequestError`."""
    seed = integer("seed", value)
    if not 0 <= seed < 2**64:
        raise invalid("seed", f"is 0 to {2**64 - 1}", value)
    return seed


def position(value: object) -> int:
    """A position to send. Raises `InvalidRequestError`."""
    return int32("position", value)


def attach_request(
    session_id: str, request_id: object, from_index: object
) -> session_pb2.AttachRequest:
    """The request to go on with a turn. Raises `InvalidRequestError` naming the field."""
    return session_pb2.AttachRequest(
        session_id=session_id,
        request_id=text("request_id", request_id),
        from_index=int32("from_index", from_index),
    )


def page_size(value: object) -> int:
    """A page size to send. Raises `InvalidRequestError`."""
    return int32("page_size", value)


def session_id(value: object) -> str:
    """A session id to send. Raises `InvalidRequestError`."""
    return text("session_id", value)


def _set_input(request: session_pb2.GenerateRequest, content: object, **context: object) -> None:
    """Fills the input in: text as it is, else by what the items of the sequence are."""
    items = [] if isinstance(content, str) else _items(content)
    is_chat = bool(items) and isinstance(items[0], (ChatMessage, Mapping))
    for name, value in context.items():
        if value is not None and not is_chat:
            given = "text" if isinstance(content, str) else "token ids"
            raise refused(name, f"{name} goes with chat messages only, not with {given}")
    if isinstance(content, str):
        request.text = text("input", content)
    elif is_chat:
        request.chat.CopyFrom(chat_input(items, **context))
    else:
        request.tokens.tokens.extend(map(_token_id, items))


def _token_id(item: object) -> int:
    if isinstance(item, (ChatMessage, Mapping, str)):
        raise invalid("input", "begins with a token id, so it holds only these", item)
    return int32("input", item, noun="a token id of input")


def _items(content: object) -> list[Any]:
    items = (
        list(content)
        if isinstance(content, Iterable) and not isinstance(content, NO_LIST)
        else None
    )
    if items == []:
        raise refused("input", "input is empty: give at least one token id or chat message")
    if items is None or isinstance(items[0], (str, bytes, list, tuple)):
        rule = "is text, a list of token ids or a list of chat messages"
        raise invalid("input", rule, content)
    return items
