"""Raw calls: what a client of another make could send, and how a refusal reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


@dataclass(frozen=True)
class Refusal:
    """How a call failed. `numbers` are the metadata of its ErrorInfo."""

    code: grpc.StatusCode
    reason: str
    field: str
    message: str
    numbers: dict[str, str]


async def refusal(call: Any) -> Refusal:
    """The failure of a call, which has to fail: a unary one, or one whose answers are all read."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _read(call)
    return read_refusal(rpc_status.from_call(caught.value))


def read_refusal(status: status_pb2.Status) -> Refusal:
    """What a status says."""
    reason, field, numbers = "", "", {}
    for detail in status.details:
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            assert info.domain == "outrider"
            reason, numbers = info.reason, dict(info.metadata)
        if detail.Unpack(bad):
            field = bad.field_violations[0].field
    (code,) = (code for code in grpc.StatusCode if code.value[0] == status.code)
    return Refusal(code, reason, field, status.message, numbers)


async def _read(call: Any) -> None:
    if hasattr(call, "__aiter__"):
        async for _ in call:
            pass
    else:
        await call


def raw_call(channel: grpc.aio.Channel, method: str, *messages: bytes) -> Any:
    """A call of `Service/Method` that sends bytes as they are."""
    path = f"/outrider.v1.{method}"
    if method.endswith(("/VerifyTurns", "/Draft")):
        return channel.stream_stream(path)(iter(messages))
    if method.endswith(("/Generate", "/Attach")):
        return channel.unary_stream(path)(messages[0])
    return channel.unary_unary(path)(messages[0])
