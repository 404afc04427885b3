"""The life of a server process: bind, report ready, drain, stop.

Health and reflection come with every server. Draining: health turns NOT_SERVING, new calls are refused,
running ones get the grace period to end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ..address import Listen
from ..core.errors import StartupError
from .binding import claimed
from .channels import MAX_MESSAGE_BYTES, SERVER_OPTIONS
from .interceptor import ErrorInterceptor
from .reflecting import add_reflection

LIBRARY_LOG = "grpc._cython.cygrpc"
ROOM_FOR_REFUSALS = 4
"""A message of so many times the bytes that are taken is still read, to be refused with a reason."""


class Health(health.aio.HealthServicer):  # type: ignore[misc]  # the library has no types
    """The library's health service, and the one method that it lacks."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self._names = names

    async def List(  # noqa: N802 - the proto's name
        self,
        _: health_pb2.HealthListRequest,
        context: grpc.aio.ServicerContext[
            health_pb2.HealthListRequest, health_pb2.HealthListResponse
        ],
    ) -> health_pb2.HealthListResponse:
        """The health of each service."""
        requests = {name: health_pb2.HealthCheckRequest(service=name) for name in self._names}
        statuses = {name: await self.Check(each, context) for name, each in requests.items()}
        return health_pb2.HealthListResponse(statuses=statuses)


class Server:
    """A gRPC server with health, reflection and translated errors.

    `max_request_bytes` bounds one message; a larger one is refused with INVALID_ARGUMENT. Far larger ones
    gRPC itself refuses, with RESOURCE_EXHAUSTED and no reason of ours, before they fill the memory.
    """

    def __init__(
        self, service_names: Sequence[str], max_request_bytes: int = MAX_MESSAGE_BYTES
    ) -> None:
        most_received = min(ROOM_FOR_REFUSALS * max_request_bytes, MAX_MESSAGE_BYTES)
        options = (*SERVER_OPTIONS, ("grpc.max_receive_message_length", most_received))
        interceptors = [ErrorInterceptor(max_request_bytes)]
        logging.getLogger(LIBRARY_LOG).addFilter(_is_no_lost_caller)
        self.grpc = grpc.aio.server(interceptors=interceptors, options=options)
        self._names = ("", *service_names)
        self._health = Health(self._names)
        self._drainers: list[Callable[[], None]] = []
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)
        add_reflection((*service_names, health.SERVICE_NAME), self.grpc)

    async def start(self, listen: str) -> str:
        """Binds and serves; returns the address bound, with the port that was chosen for port 0.

        Raises StartupError when the address cannot be bound, or is another server's.
        """
        parsed = Listen.read(listen)
        try:
            with claimed(parsed):
                port = self.grpc.add_insecure_port(parsed.text)
        except (OSError, RuntimeError) as error:
            raise StartupError(f"cannot listen on {listen}; is the address wrong?") from error
        await self.grpc.start()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)
        return parsed.with_port(port)

    def on_drain(self, stop_taking: Callable[[], None]) -> None:
        """Calls this when draining begins: for calls that outlive their work, so that they can end."""
        self._drainers.append(stop_taking)

    async def drain(self, grace_seconds: float) -> None:
        """Refuses new calls, lets running ones end within the grace period, then cuts them off."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        for stop_taking in self._drainers:
            stop_taking()
        await self.grpc.stop(grace_seconds)

    async def cut_off(self) -> None:
        """Ends running calls at once, while `drain` waits for them."""
        await self.grpc.stop(0)

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in self._names:
            await self._health.set(name, status)


def _is_no_lost_caller(record: logging.LogRecord) -> bool:
    """False for what the library logs, with a traceback, when a caller has left as its answer was ready."""
    return not (record.exc_info and isinstance(record.exc_info[1], grpc.aio.InternalError))
