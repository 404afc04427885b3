"""A user's arguments to the request of a turn.

Refuses only what a message cannot carry, such as a negative seed or an unknown draft mode; every
other range is the service's to check, so that one rule stands in one place.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any

from google.protobuf.duration_pb2 import Duration

from outrider.errors import InvalidRequestError
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


def create_request(ttl_seconds: object) -> session_pb2.CreateSessionRequest:
    """The request of a new session. Raises `InvalidRequestError` naming the field."""
    request = session_pb2.CreateSessionRequest()
    if ttl_seconds is not None:
        seconds = _integer("ttl_seconds", ttl_seconds, -(2**63), 2**63 - 1)
        request.ttl.CopyFrom(Duration(seconds=seconds))
    return request


def generate_request(
    session_id: str,
    content: object,
    sampling: types_pb2.SamplingParams,
    *,
    max_new_tokens: int | None,
    seed: int | None,
    stop: str | Iterable[str],
    draft: str,
    max_window: int | None,
    logprobs: int | None,
    request_id: str | None,
    loop: str | None,
) -> session_pb2.GenerateRequest:
    """The request of one turn. Raises `InvalidRequestError` naming the field."""
    request = session_pb2.GenerateRequest(session_id=session_id, sampling=sampling)
    _set_input(request, content)
    for field, value in (
        ("max_new_tokens", max_new_tokens),
        ("max_window", max_window),
        ("logprobs", logprobs),
    ):
        if value is not None:
            setattr(request, field, _int32(field, value))
    if seed is not None:
        request.seed = checked_seed(seed)
    request.stop.extend(_texts("stop", [stop] if isinstance(stop, str) else stop))
    request.draft = _choice("draft", draft, _DRAFT_MODES)
    if request_id is not None:
        request.request_id = _text("request_id", request_id)
    if loop is not None:
        request.loop = _choice("loop", loop, _LOOP_MODES)
    return request


def sampling_params(
    *, logit_bias: Mapping[int, float] | None, **values: float | None
) -> types_pb2.SamplingParams:
    """How the target draws; None stays unset. Raises `InvalidRequestError` naming the field."""
    params = types_pb2.SamplingParams()
    for name, value in values.items():
        if value is not None:
            read: Callable[[str, object], float] = _int32 if name == "top_k" else _number
            setattr(params, name, read(f"sampling.{name}", value))
    if logit_bias is not None:
        if not isinstance(logit_bias, Mapping):
            raise _invalid("sampling.logit_bias", "maps token ids to numbers", logit_bias)
        for token, bias in logit_bias.items():
            field = "sampling.logit_bias"
            params.logit_bias[_int32(field, token)] = _number(field, bias)
    return params


def checked_seed(value: object) -> int:
    """A seed to send. Raises `InvalidRequestError`."""
    return _integer("seed", value, 0, 2**64 - 1)


def position(value: object) -> int:
    """A position to send. Raises `InvalidRequestError`."""
    return _int32("position", value)


def attach_request(
    session_id: str, request_id: object, from_index: object
) -> session_pb2.AttachRequest:
    """The request to go on with a turn. Raises `InvalidRequestError` naming the field."""
    return session_pb2.AttachRequest(
        session_id=session_id,
        request_id=_text("request_id", request_id),
        from_index=_int32("from_index", from_index),
    )


def page_size(value: object) -> int:
    """A page size to send. Raises `InvalidRequestError`."""
    return _int32("page_size", value)


def session_id(value: object) -> str:
    """A session id to send. Raises `InvalidRequestError`."""
    return _text("session_id", value)


def _set_input(request: session_pb2.GenerateRequest, content: object) -> None:
    """Fills the input in: text as it is, else by what the items of the sequence are."""
    if isinstance(content, str):
        request.text = _text("input", content)
        return
    if isinstance(content, (bytes, Mapping)) or not isinstance(content, Iterable):
        raise _invalid("input", "is text, token ids or chat messages", content)
    items: list[Any] = list(content)
    if not items:
        raise _invalid("input", "is not empty", content)
    if isinstance(items[0], (ChatMessage, Mapping)):
        request.chat.messages.extend(_chat_message(item) for item in items)
    else:
        request.tokens.tokens.extend(_int32("input", item) for item in items)


def _chat_message(item: object) -> session_pb2.ChatMessage:
    if isinstance(item, Mapping):
        if set(item) != {"role", "content"}:
            raise _invalid("input", 'has chat messages of "role" and "content"', item)
        item = ChatMessage(item["role"], item["content"])
    if not isinstance(item, ChatMessage):
        raise _invalid("input", "is chat messages throughout, or none", item)
    return session_pb2.ChatMessage(
        role=_text("input.role", item.role), content=_text("input.content", item.content)
    )


def _integer(field: str, value: object, lowest: int, highest: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise _invalid(field, "is an integer", value) from None
    if not lowest <= number <= highest:
        raise _invalid(field, f"is {lowest} to {highest}", value)
    return number


def _int32(field: str, value: object) -> int:
    return _integer(field, value, -(2**31), 2**31 - 1)


def _number(field: str, value: object) -> float:
    if not isinstance(value, Real):
        raise _invalid(field, "is a number", value)
    try:
        return float(value)
    except OverflowError:
        raise _invalid(field, "is a number of double precision", value) from None


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise _invalid(field, "is text", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _invalid(field, "is text that UTF-8 can carry", value) from None
    return value


def _texts(field: str, values: object) -> list[str]:
    if not isinstance(values, Iterable):
        raise _invalid(field, "is a list of texts", values)
    return [_text(field, value) for value in values]


def _choice(field: str, value: object, choices: Mapping[str, Any]) -> Any:
    if not isinstance(value, str) or value not in choices:
        raise _invalid(field, f"is one of {', '.join(choices)}", value)
    return choices[value]


def _invalid(field: str, rule: str, value: object) -> InvalidRequestError:
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return InvalidRequestError(
        f"{field} {rule}, not {shown}", field=field, reason="INVALID_REQUEST"
    )
