"""A client that is killed while its streams stand still is a client that left: nothing is logged of it."""

from __future__ import annotations

import subprocess
import sys

from outrider_server.models import held_out_prompts

from .processes import Service, Services, connected, until

STREAMS = 6
STALLING = """
import asyncio, sys
import grpc, outrider
from outrider.v1 import session_pb2, session_pb2_grpc

NARROW = [("grpc.http2.lookahead_bytes", 16_384), ("grpc.http2.bdp_probe", 0)]

async def stall(stub):
    session = await stub.CreateSession(session_pb2.CreateSessionRequest())
    request = session_pb2.GenerateRequest(session_id=session.session.session_id, text=sys.argv[2])
    request.logprobs, request.max_new_tokens = 20, 900
    request.sampling.logit_bias[0] = -100.0
    while True:
        call = stub.Generate(request)
        try:
            await call.read()
            return call
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.2)

async def main():
    async with grpc.aio.insecure_channel(sys.argv[1], options=NARROW) as channel:
        stub = session_pb2_grpc.SessionServiceStub(channel)
        calls = await asyncio.gather(*(stall(stub) for _ in range(int(sys.argv[3]))))
        print("stalled", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_nothing_is_logged_and_its_sessions_are_free(services: Services, target: Service):
    service = services.session(target.wait_until_ready(), ledger="killed-clients")
    address = service.wait_until_ready()
    with (
        subprocess.Popen(
            [sys.executable, "-c", STALLING, address, held_out_prompts()[30], str(STREAMS)],
            stdout=subprocess.PIPE,
            text=True,
        ) as stalling,
        connected(address) as client,
    ):
        assert stalling.stdout is not None
        assert stalling.stdout.readline() == "stalled\n"
        stalling.kill()
        stalling.wait()
        until(lambda: not any(session.turn_running for session in client.sessions()))
        assert len(list(client.sessions())) == STREAMS
    service.close()
    assert service.errors == ""
