"""`python -m tests.processes.flood`: prompts of 4 MB arrive; how long do health and another reply wait?

Twenty prompts come at once from a process of their own, which shares the machine. To tell apart what waits
for the CPU alone, the same is measured beside a process that only computes. Prints times, decides nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import outrider
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

# As under pytest, the folder of the tests is where their imports begin.
sys.path.insert(0, str(Path(__file__).parents[1]))

from processes.processes import Service

PROMPTS = 20
PROMPT_BYTES = (4 << 20) - 2000
IDLE_SECONDS = 5.0
PAUSE_SECONDS = 0.005
COMPUTE = "while True: pass"


class Waits:
    """What was waited for since the last report, in seconds."""

    def __init__(self) -> None:
        self.health: list[float] = []
        self.tokens: list[float] = []

    def report(self, phase: str) -> None:
        """Prints the times and begins again."""
        for name, seconds in (("health", sorted(self.health)), ("token", sorted(self.tokens))):
            of = [seconds[len(seconds) * part // 100] * 1000 for part in (50, 99)]
            print(
                f"{phase}: {len(seconds)} times {name}, ms: median {of[0]:.1f}, p99 {of[1]:.1f}, "
                f"longest {seconds[-1] * 1000:.1f}",
                flush=True,
            )
            seconds.clear()
        self.health.clear()
        self.tokens.clear()


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.processes.flood", description=__doc__)
    parser.add_argument("--to", help="only sends the prompts, to this address")
    parser.add_argument("--chat", action="store_true", help="as chat messages, not as text")
    options, of_up = parser.parse_known_args()
    if options.to:
        asyncio.run(_send(options.to, options.chat))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        up = Service("up", "--bundled", "--listen=127.0.0.1:0", f"--ledger={folder}/ledger", *of_up)
        try:
            asyncio.run(_measure(up.wait_until_ready(), ["--chat"] * options.chat))
        finally:
            up.close()
    return 0


async def _measure(address: str, how: list[str]) -> None:
    waits = Waits()
    async with _watched(address, waits):
        await asyncio.sleep(IDLE_SECONDS)
        waits.report("alone")
        busy = await asyncio.create_subprocess_exec(sys.executable, "-c", COMPUTE)
        await asyncio.sleep(IDLE_SECONDS)
        busy.kill()
        await busy.wait()
        waits.report("beside a process that computes")
        sender = await asyncio.create_subprocess_exec(
            sys.executable, __file__, "--to", address, *how
        )
        await sender.wait()
        waits.report(f"beside {PROMPTS} prompts of 4 MB")


@asynccontextmanager
async def _watched(address: str, waits: Waits) -> AsyncIterator[None]:
    """Health is asked and a reply is read, again and again, from here on."""
    async with aio.insecure_channel(address) as channel, outrider.AsyncClient(address) as client:
        watching = [
            asyncio.create_task(_ask_health(channel, waits)),
            asyncio.create_task(_read_replies(client, waits)),
        ]
        try:
            yield
        finally:
            for task in watching:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def _ask_health(channel: aio.Channel, waits: Waits) -> None:
    check = health_pb2_grpc.HealthStub(channel).Check
    while True:
        began = time.perf_counter()
        await check(health_pb2.HealthCheckRequest())
        waits.health.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE_SECONDS)


async def _read_replies(client: outrider.AsyncClient, waits: Waits) -> None:
    while True:
        session, last = await client.create_session(), 0.0
        options = {"max_new_tokens": 400, "ignore_end_tokens": True}
        async for _ in session.generate("import os\n", draft="off", **options):
            now = time.perf_counter()
            if last:
                waits.tokens.append(now - last)
            last = now


async def _send(address: str, as_chat: bool) -> None:
    async with outrider.AsyncClient(address) as client:
        await asyncio.gather(*(_prompt(client, number, as_chat) for number in range(PROMPTS)))


async def _prompt(client: outrider.AsyncClient, number: int, as_chat: bool) -> None:
    text = (f"def f{number}(x):\n    return x + {number}\n" * 200_000)[:PROMPT_BYTES]
    session = await client.create_session()
    with suppress(outrider.InvalidRequestError, outrider.ExhaustedError):
        await session.generate([{"role": "user", "content": text}] if as_chat else text).read()


if __name__ == "__main__":
    sys.exit(main())
