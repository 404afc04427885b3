"""`python -m tests.processes.stalled`: readers that stand still; how long do another client's turns take?

Each opens a turn with logprobs, takes its first message, and no other. Those that find no room come back.
Prints times and memory, and decides nothing but whether the other client's turns had their tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

import grpc
import outrider
from outrider.v1 import session_pb2, session_pb2_grpc
from outrider_server.models import held_out_prompts

# As under pytest, the folder of the tests is where their imports begin.
sys.path.insert(0, str(Path(__file__).parents[1]))

from processes.processes import OWN_CONNECTION, Service, Services

PROMPT = held_out_prompts()[30]
TURN = {"max_new_tokens": 200, "seed": 6, "logit_bias": {0: -100.0}}
TURNS = 7
STALLED_TOKENS = 900
AT_ONCE = 16
SETTLE_SECONDS = 4.0
"""After which who stands still has given its slot up."""
NARROW = [*OWN_CONNECTION, ("grpc.http2.lookahead_bytes", 16_384), ("grpc.http2.bdp_probe", 0)]


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.processes.stalled", description=__doc__)
    parser.add_argument("--readers", type=int, default=300)
    with tempfile.TemporaryDirectory() as folder:
        services = Services(Path(folder))
        try:
            target = services.start("target", "--listen=127.0.0.1:0", "--slots=8")
            session = services.session(target.wait_until_ready())
            session.wait_until_ready()
            return asyncio.run(_measure(target, session, parser.parse_args().readers))
        finally:
            services.close()


async def _measure(target: Service, session: Service, readers: int) -> int:
    async with (
        outrider.AsyncClient(session.address, channel_options=OWN_CONNECTION) as client,
        grpc.aio.insecure_channel(session.address, options=NARROW) as channel,
    ):
        alone, wanted = await _turns(client)
        _tell("alone", alone, target, session)
        stub = session_pb2_grpc.SessionServiceStub(channel)
        began, places = time.monotonic(), asyncio.Semaphore(AT_ONCE)
        calls = await asyncio.gather(*(_stall(client, stub, places) for _ in range(readers)))
        print(
            f"{len(calls)} readers stand still after {time.monotonic() - began:.1f} s", flush=True
        )
        await asyncio.sleep(SETTLE_SECONDS)
        beside, got = await _turns(client)
        _tell(f"beside {readers} that stand still", beside, target, session)
        ratio = statistics.median(beside) / statistics.median(alone)
        print(f"ratio of the medians: {ratio:.2f}")
        for call in calls:
            call.cancel()
        return 0 if wanted == got else 1


async def _turns(client: outrider.AsyncClient) -> tuple[list[float], list[int]]:
    """Seconds of each turn, and the tokens, which are the same in all of them."""
    seconds = []
    for _ in range(TURNS):
        session = await client.create_session()
        began = time.monotonic()
        reply = await session.generate(PROMPT, **TURN)
        seconds.append(time.monotonic() - began)
    return seconds, reply.tokens


async def _stall(  # type: ignore[no-untyped-def]
    client: outrider.AsyncClient,
    stub: session_pb2_grpc.SessionServiceStub,
    places: asyncio.Semaphore,
):
    """A turn whose reader takes the first message alone."""
    session = await client.create_session()
    request = session_pb2.GenerateRequest(session_id=session.id, text=PROMPT, logprobs=20)
    request.max_new_tokens = STALLED_TOKENS
    request.sampling.logit_bias[0] = -100.0
    async with places:
        while True:
            call = stub.Generate(request)
            try:
                await call.read()
                return call
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.2)


def _tell(phase: str, seconds: list[float], *services: Service) -> None:
    middle = statistics.median(seconds)
    sizes = ", ".join(f"{_resident_mib(service.process.pid)} MiB" for service in services)
    print(
        f"{phase}: a turn takes {middle:.2f} s ({min(seconds):.2f}-{max(seconds):.2f});"
        f" target and session service hold {sizes}",
        flush=True,
    )


def _resident_mib(process: int) -> int:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) // 1024


if __name__ == "__main__":
    sys.exit(main())
