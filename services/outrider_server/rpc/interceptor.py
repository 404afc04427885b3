"""The outermost interceptor: no traceback and no exception text leaves the process.

It wraps a handler and its request deserializer, because both leak otherwise: a domain error becomes its
status, anything else INTERNAL without details and a log record, and a message that is malformed or too
large INVALID_ARGUMENT. The size is looked at first: parsing holds the event loop.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from types import CoroutineType
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from ..core.errors import InvalidRequest, OutriderError
from .errors import to_status

log = logging.getLogger("outrider.rpc")

Deserializer = Callable[[bytes], Any]
Request = TypeVar("Request")
Response = TypeVar("Response")


@dataclass(frozen=True, slots=True)
class _Refused:
    """Stands for a message that was not parsed, until a handler may answer."""

    error: InvalidRequest


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Translates every failure of every handler. Messages of more bytes than given are not parsed."""

    def __init__(self, max_request_bytes: int) -> None:
        self._max_request_bytes = max_request_bytes

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails],
            Awaitable[grpc.RpcMethodHandler[Request, Response] | None],
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Request, Response] | None:
        """Wraps the handler that the rest of the chain found."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        deserializer = _guarded(handler.request_deserializer, self._max_request_bytes)
        serializer = handler.response_serializer
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _answering(handler.unary_unary, method), deserializer, serializer
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                _streaming(handler.unary_stream, method), deserializer, serializer
            )
        if handler.stream_stream:
            return grpc.stream_stream_rpc_method_handler(
                _streaming(handler.stream_stream, method), deserializer, serializer
            )
        return grpc.stream_unary_rpc_method_handler(
            _answering(handler.stream_unary, method), deserializer, serializer
        )


def _guarded(deserializer: Deserializer | None, max_bytes: int) -> Deserializer | None:
    if deserializer is None:
        return None

    def parse(data: bytes) -> Any:
        if len(data) > max_bytes:
            return _Refused(
                InvalidRequest(
                    "",
                    f"the message has {len(data)} bytes, and this service takes at most {max_bytes};"
                    " send less in one message",
                )
            )
        try:
            return deserializer(data)
        except DecodeError:
            return _Refused(
                InvalidRequest("", "the message is not a valid protobuf of this method")
            )

    return parse


def _checked(request: Any) -> Any:
    """The request, if it could be parsed; each message of it, if it is a stream."""
    if isinstance(request, _Refused):
        raise request.error
    return _checked_stream(request) if hasattr(request, "__aiter__") else request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


def _answering(behavior: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Any]:
    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await behavior(_checked(request), context)
        except (Exception, asyncio.CancelledError) as error:
            await _abort(context, error, method)

    return answer


def _streaming(
    behavior: Callable[..., AsyncGenerator[Any, None] | CoroutineType[Any, Any, None]], method: str
) -> Callable[..., Any]:
    async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        try:
            answers = behavior(_checked(request), context)
            if inspect.iscoroutine(answers):
                await answers  # it writes to the context, as the library's health service does
                return
            # A caller who leaves is met at the write, and the handler is closed there and then: gRPC's
            # own loop would leave it to the garbage collector.
            async with aclosing(answers):
                async for response in answers:
                    await context.write(response)
        except (Exception, asyncio.CancelledError) as error:
            await _abort(context, error, method)

    return stream


async def _abort(
    context: grpc.aio.ServicerContext[Any, Any],
    error: Exception | asyncio.CancelledError,
    method: str,
) -> None:
    """Ends the call with the error's status. One that gRPC has ended has none any more."""
    task = asyncio.current_task()
    is_ended = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling()
    if is_ended or isinstance(error, grpc.aio.AbortError):
        raise error
    if isinstance(error, grpc.aio.InternalError):  # the caller is gone: nothing can be sent
        raise asyncio.CancelledError from error
    if not isinstance(error, OutriderError):
        log.exception("%s failed", method, exc_info=error)
    try:
        await context.abort_with_status(rpc_status.to_status(to_status(error)))
    except grpc.aio.InternalError as gone:
        raise asyncio.CancelledError from gone
