"""The life of a server: it binds or says why not, reports its health, shows its services, drains."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from outrider.v1 import target_pb2, target_pb2_grpc
from outrider_server.core.errors import StartupError
from outrider_server.rpc.channels import open_channel
from outrider_server.rpc.serve import Server

from .service import NAME, ScriptedTarget, serving

Status = health_pb2.HealthCheckResponse


async def test_a_taken_port_is_a_startup_error_that_names_it() -> None:
    first, second = Server((NAME,)), Server((NAME,))
    address = await first.start("127.0.0.1:0")
    try:
        with pytest.raises(StartupError, match=address):
            await second.start(address)
    finally:
        await first.drain(0)
        await second.drain(0)


@pytest.mark.parametrize("listen", ["no.such.host.invalid:1", "127.0.0.1:notaport"])
async def test_an_address_that_cannot_be_bound_is_a_startup_error(listen: str) -> None:
    server = Server((NAME,))
    with pytest.raises(StartupError, match=listen):
        await server.start(listen)
    await server.drain(0)


async def test_port_0_becomes_the_port_that_was_bound() -> None:
    server = Server((NAME,))
    host, _, port = (await server.start("127.0.0.1:0")).rpartition(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    await server.drain(0)


async def test_a_unix_socket_is_served(tmp_path: Path) -> None:
    server = Server((NAME,))
    target_pb2_grpc.add_TargetServiceServicer_to_server(ScriptedTarget(), server.grpc)
    address = await server.start(f"unix:{tmp_path}/socket")
    assert address == f"unix:{tmp_path}/socket"
    async with open_channel(address) as channel:
        await target_pb2_grpc.TargetServiceStub(channel).DescribeModel(
            target_pb2.DescribeModelRequest()
        )
    await server.drain(0)


async def test_a_peer_is_reached_without_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # where nothing listens
    server = Server((NAME,))
    target_pb2_grpc.add_TargetServiceServicer_to_server(ScriptedTarget(), server.grpc)
    address = await server.start("127.0.0.1:0")
    async with open_channel(address) as channel:
        await target_pb2_grpc.TargetServiceStub(channel).DescribeModel(
            target_pb2.DescribeModelRequest(), timeout=20
        )
    await server.drain(0)


async def test_health_is_serving_and_turns_when_draining() -> None:
    async with serving(ScriptedTarget()) as (server, channel):
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ("", NAME)]
        for watch in watches:
            assert (await watch.read()).status == Status.SERVING
        drained = asyncio.create_task(server.drain(5))
        for watch in watches:
            assert (await watch.read()).status == Status.NOT_SERVING
            watch.cancel()
        await drained


async def test_health_of_an_unknown_service_is_not_found() -> None:
    async with serving(ScriptedTarget()) as (_, channel):
        health = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await health.Check(health_pb2.HealthCheckRequest(service="nothing"))
    assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_of_all_services_is_listed() -> None:
    async with serving(ScriptedTarget()) as (_, channel):
        listed = await health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())
    assert {name: each.status for name, each in listed.statuses.items()} == {
        "": Status.SERVING,
        NAME: Status.SERVING,
    }


async def test_draining_lets_a_running_call_end_and_refuses_new_ones() -> None:
    async with serving(ScriptedTarget()) as (server, channel):
        stub = target_pb2_grpc.TargetServiceStub(channel)
        call = stub.VerifyTurns()
        await call.write(target_pb2.VerifyTurnsRequest())
        await call.read()
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        drained = asyncio.create_task(server.drain(30))
        assert (await watch.read()).status == Status.NOT_SERVING
        watch.cancel()
        await call.write(target_pb2.VerifyTurnsRequest())
        assert (await call.read()).turns[0].turn == 7
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        await drained
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.DescribeModel(target_pb2.DescribeModelRequest())
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_draining_cuts_off_what_outlives_the_grace_period() -> None:
    async with serving(ScriptedTarget()) as (server, channel):
        call = target_pb2_grpc.TargetServiceStub(channel).VerifyTurns()
        await call.write(target_pb2.VerifyTurnsRequest())
        await call.read()
        await server.drain(0)
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await call.read()


VERSIONS = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


@pytest.mark.parametrize("version", VERSIONS)
async def test_both_versions_of_reflection_list_and_describe_every_service(version: str) -> None:
    """v1's messages have the bytes of v1alpha's."""
    async with serving(ScriptedTarget()) as (_, channel):
        call = channel.stream_stream(
            f"/{version}/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = (await call.read()).list_services_response.service
        names = {service.name for service in listed}
        assert names == {NAME, "grpc.health.v1.Health", *VERSIONS}
        for name in names:
            question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
            await call.write(question)
            (file, *_) = (await call.read()).file_descriptor_response.file_descriptor_proto
            assert name.rpartition(".")[0].encode() in file
        call.cancel()


async def test_a_caller_that_has_left_is_not_logged_and_other_faults_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(ScriptedTarget()):
        log = logging.getLogger("grpc._cython.cygrpc")
        log.error("gone", exc_info=grpc.aio.InternalError("execute_batch"))
        log.error("a defect", exc_info=RuntimeError())
    assert [record.message for record in caplog.records] == ["a defect"]
