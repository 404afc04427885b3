"""The outermost interceptor: no traceback and no exception text leaves the process.

It wraps a handler and its request deserializer, because both leak otherwise: a domain error becomes its
status, anything else INTERNAL without details and a log record, and a malformed message
INVALID_ARGUMENT.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from ..speculation.errors import InvalidRequest, OutriderError
from .errors import to_status

log = logging.getLogger("outrider.rpc")

Deserializer = Callable[[bytes], Any]


class _Malformed:
    """Stands for a message that could not be parsed, until a handler may answer."""


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Translates every failure of every handler."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler | None:
        """Wraps the handler that the rest of the chain found."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        deserializer = _guarded(handler.request_deserializer)
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


def _guarded(deserializer: Deserializer | None) -> Deserializer | None:
    if deserializer is None:
        return None

    def parse(data: bytes) -> Any:
        try:
            return deserializer(data)
        except DecodeError:
            return _Malformed()

    return parse


def _checked(request: Any) -> Any:
    """The request, if it could be parsed; each message of it, if it is a stream."""
    if isinstance(request, _Malformed):
        raise InvalidRequest("", "the message is not a valid protobuf of this method")
    return _checked_stream(request) if hasattr(request, "__aiter__") else request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


def _answering(behavior: Callable[..., Awaitable[Any]], method: str) -> Callable[..., Any]:
    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await behavior(_checked(request), context)
        except Exception as error:
            await _abort(context, error, method)

    return answer


def _streaming(behavior: Callable[..., AsyncIterator[Any]], method: str) -> Callable[..., Any]:
    async def stream(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        try:
            answers = behavior(_checked(request), context)
            if inspect.iscoroutine(answers):
                await (
                    answers
                )  # a handler that writes to the context, as the library's health service does
                return
            async for response in answers:
                yield response
        except Exception as error:
            await _abort(context, error, method)

    return stream


async def _abort(context: grpc.aio.ServicerContext, error: Exception, method: str) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, OutriderError):
        log.exception("%s failed", method, exc_info=error)
    await context.abort_with_status(rpc_status.to_status(to_status(error)))
