"""A session service without a model: it answers from a script and records what it was asked."""

# ruff: noqa: N802 - gRPC names the methods of a servicer.

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from outrider.v1 import session_pb2, session_pb2_grpc, target_pb2, types_pb2

HOLD = "hold"


class Failure:
    """A status to end a call with."""

    def __init__(self, code: grpc.StatusCode, message: str = "no", *details: Any) -> None:
        self.code, self.message, self.details = code, message, details

    def abort(self, context: grpc.ServicerContext) -> None:
        if not self.details:
            context.abort(self.code, self.message)
        status = status_pb2.Status(code=code_pb2.Code.Value(self.code.name), message=self.message)
        for detail in self.details:
            status.details.add().CopyFrom(detail)
        context.abort_with_status(rpc_status.to_status(status))


class Hang:
    """Keeps a call waiting until its caller gives up."""

    def abort(self, context: grpc.ServicerContext) -> None:
        ended = threading.Event()
        context.add_callback(ended.set)
        ended.wait()


class RawStatus:
    """A status whose binary details are given byte for byte."""

    def __init__(self, code: grpc.StatusCode, message: str, trailer: bytes) -> None:
        self.code, self.message, self.trailer = code, message, trailer

    def abort(self, context: grpc.ServicerContext) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", self.trailer),))
        context.abort(self.code, self.message)


def packed(detail: Any) -> any_pb2.Any:
    """A detail as a status carries it."""
    any_ = any_pb2.Any()
    any_.Pack(detail)
    return any_


def error_info(reason: str, domain: str = "outrider") -> any_pb2.Any:
    return packed(error_details_pb2.ErrorInfo(reason=reason, domain=domain))


def bad_request(field: str) -> any_pb2.Any:
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description="bad")
    return packed(error_details_pb2.BadRequest(field_violations=[violation]))


def retry_info(milliseconds: int) -> any_pb2.Any:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(milliseconds)
    return packed(info)


def started(position: int = 3, seed: int = 7) -> session_pb2.GenerateEvent:
    turn = session_pb2.TurnStarted(
        request_id="turn-1", prompt_tokens=3, start_position=position, seed=seed
    )
    return session_pb2.GenerateEvent(started=turn)


def token(index: int, text: str = "a", source: int = 3) -> session_pb2.GenerateEvent:
    event = session_pb2.TokenEvent(index=index, token=100 + index, text=text, source=source)
    return session_pb2.GenerateEvent(tokens=session_pb2.TokenEvents(events=[event]))


def token_with_logprobs(index: int, *tops: tuple[int, float]) -> session_pb2.GenerateEvent:
    message = token(index)
    message.tokens.events[0].logprobs.CopyFrom(
        target_pb2.TokenLogprobs(
            logprob=-0.5,
            top=[target_pb2.TopLogprob(token=id_, logprob=value) for id_, value in tops],
        )
    )
    return message


def summary(tokens: int, **changes: Any) -> session_pb2.GenerateEvent:
    fields = {
        "finish_reason": session_pb2.FINISH_REASON_LENGTH,
        "seed": 7,
        "rounds": 2,
        "proposed": 4,
        "accepted": 3,
        "tokens": tokens,
        "prompt_tokens": 3,
        "position": 8,
    }
    return session_pb2.GenerateEvent(summary=session_pb2.TurnSummary(**(fields | changes)))


def hello() -> list[Any]:
    """A turn of three tokens, one from each source."""
    return [
        started(),
        token(0, "he", 1),
        token(1, "llo", 2),
        token(2, "!", 3),
        summary(3, position=6),
    ]


class FakeSessionService(session_pb2_grpc.SessionServiceServicer):
    """Set `script`, `failures` and `sessions`; read `requests`, `metadata` and `cancelled`."""

    def __init__(self) -> None:
        self.script: list[Any] = hello()
        self.failures: dict[str, Failure | RawStatus | Hang] = {}
        self.sessions: dict[str, session_pb2.Session] = {}
        self.requests: queue.Queue[Any] = queue.Queue()
        self.metadata: dict[str, str] = {}
        self.cancelled = threading.Event()
        self.sent = 0
        """Messages of turns."""
        self.lingers: int | None = None
        """How many calls a turn that was cancelled still refuses; None where turns refuse no call."""
        self._runs = False
        self.description = session_pb2.DescribeResponse(
            target=types_pb2.ModelDescription(name="big", width=8), version="1.2.3", max_window=7
        )

    def add_sessions(self, count: int) -> None:
        for index in range(count):
            id_ = f"s{index}"
            self.sessions[id_] = session_pb2.Session(session_id=id_, position=index)

    def CreateSession(self, request: Any, context: Any) -> Any:
        self._take("CreateSession", request, context)
        id_ = f"s{len(self.sessions)}"
        self.sessions[id_] = session_pb2.Session(session_id=id_)
        return session_pb2.CreateSessionResponse(session=self.sessions[id_])

    def GetSession(self, request: Any, context: Any) -> Any:
        self._take("GetSession", request, context)
        answer = session_pb2.GetSessionResponse(session=self._find(request.session_id, context))
        if request.with_tokens:
            answer.tokens.extend([1, 2])
            answer.text = "ab"
        return answer

    def ListSessions(self, request: Any, context: Any) -> Any:
        self._take("ListSessions", request, context)
        first = int(request.page_token or 0)
        last = first + (request.page_size or 100)
        page = list(self.sessions.values())[first:last]
        more = str(last) if last < len(self.sessions) else ""
        return session_pb2.ListSessionsResponse(sessions=page, next_page_token=more)

    def DeleteSession(self, request: Any, context: Any) -> Any:
        self._take("DeleteSession", request, context)
        self._refuse_while_running(context)
        self._find(request.session_id, context)
        del self.sessions[request.session_id]
        return session_pb2.DeleteSessionResponse()

    def ForkSession(self, request: Any, context: Any) -> Any:
        self._take("ForkSession", request, context)
        self._refuse_while_running(context)
        source = self._find(request.session_id, context)
        position = request.position if request.HasField("position") else source.position
        copy = session_pb2.Session(session_id=f"{source.session_id}-copy", position=position)
        self.sessions[copy.session_id] = copy
        return session_pb2.ForkSessionResponse(session=copy)

    def RewindSession(self, request: Any, context: Any) -> Any:
        self._take("RewindSession", request, context)
        self._refuse_while_running(context)
        session = self._find(request.session_id, context)
        session.position = request.position
        return session_pb2.RewindSessionResponse(session=session)

    def Describe(self, request: Any, context: Any) -> Any:
        self._take("Describe", request, context)
        return self.description

    def Generate(self, request: Any, context: Any) -> Iterator[Any]:
        self._refuse_while_running(context)
        ended, finished = threading.Event(), threading.Event()

        def end() -> None:
            if not finished.is_set():
                self.cancelled.set()
            ended.set()

        context.add_callback(end)
        self._take("Generate", request, context)
        self._runs = True
        for step in self.script:
            if step is HOLD:
                ended.wait()
                return
            if isinstance(step, (Failure, RawStatus)):
                finished.set()
                step.abort(context)
            self.sent += 1
            yield step
        finished.set()
        self._runs = False

    def _take(self, method: str, request: Any, context: Any) -> None:
        self.metadata = dict(context.invocation_metadata())
        self.requests.put(request)
        if method in self.failures:
            self.failures[method].abort(context)

    def _refuse_while_running(self, context: Any) -> None:
        if self.lingers is None or not self._runs:
            return
        if self.cancelled.is_set():
            if self.lingers == 0:
                self._runs = False
                return
            self.lingers -= 1
        Failure(
            grpc.StatusCode.FAILED_PRECONDITION, "a turn runs", error_info("TURN_RUNNING")
        ).abort(context)

    def _find(self, session_id: str, context: Any) -> session_pb2.Session:
        if session_id not in self.sessions:
            Failure(
                grpc.StatusCode.NOT_FOUND, f"no session {session_id}", error_info("NOT_FOUND")
            ).abort(context)
        return self.sessions[session_id]


def serve(service: FakeSessionService, address: str = "127.0.0.1:0") -> tuple[grpc.Server, str]:
    """A started server, on a free port unless one is named, and its address."""
    server = grpc.server(ThreadPoolExecutor(8))
    session_pb2_grpc.add_SessionServiceServicer_to_server(service, server)
    port = server.add_insecure_port(address)
    server.start()
    return server, f"127.0.0.1:{port}"
