"""The services that are fuzzed, and what has to hold of them between batches."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import outrider
from grpc_health.v1 import health_pb2, health_pb2_grpc
from outrider_server.host.engine_host import EngineHost
from services.harness import SessionService, Stack, generate, running_engine, until_closed

from services import tiny_models

CONTEXT_TOKENS = 96
CALLERS_OWN = "_consume_request_iterator"
"""What sends a caller's messages; the library drops it where the call ends first."""
MORE_TASKS = 8
MORE_DESCRIPTORS = 16
MORE_BYTES = 512 << 20
SETTLE_SECONDS = 30.0
PROBE = {"max_new_tokens": 8, "seed": 5, "draft": "off"}


class Errors(logging.Handler):
    """What the services logged as a defect of their own."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps it, unless it is of the callers' own library."""
        message = logging.Formatter("%(name)s: %(message)s").format(record)
        if CALLERS_OWN not in message:
            self.records.append(message)


@dataclass
class World:
    """Three services and a channel to each."""

    target: EngineHost
    draft: EngineHost
    service: SessionService
    channels: tuple[grpc.aio.Channel, grpc.aio.Channel, grpc.aio.Channel]
    """To the session service, the target and the draft."""
    errors: Errors
    expected: list[int]
    baseline: tuple[int, int, int] = (0, 0, 0)

    async def session(self) -> str:
        """A session with a turn, for calls that need one."""
        session = await self.service.client.create_session()
        await session.generate("x", max_new_tokens=2, seed=1).read()
        return session.id

    async def settled(self) -> list[str]:
        """Waits until every call has ended inside too; returns what is wrong then."""
        try:
            async with asyncio.timeout(SETTLE_SECONDS):
                while self._busy():  # noqa: ASYNC110 - what is waited for happens in other tasks
                    await asyncio.sleep(0.01)
                await until_closed(self.target)
                await until_closed(self.draft)
        except TimeoutError:
            return [f"left over: {', '.join(self._busy()) or 'open slots'}"]
        return [*self.errors.records, *await self._answers(), *self._grown()]

    async def _answers(self) -> list[str]:
        for channel in self.channels:
            check = health_pb2_grpc.HealthStub(channel).Check
            await check(health_pb2.HealthCheckRequest(), timeout=SETTLE_SECONDS)
        for info in [info async for info in self.service.client.sessions()]:
            with contextlib.suppress(outrider.NotFoundError):  # it has expired meanwhile
                await self.service.client.delete_session(info.id)
        reply = await generate(self.service.client, "def f(", **PROBE)
        return [] if reply.tokens == self.expected else ["the same turn gave other tokens"]

    def _busy(self) -> list[str]:
        live, targets = self.service.sessions.live, self.service.targets
        held = {
            "turns": len(live._running),
            "leases": len(live._keepers),
            "endings": len(live._endings),
            "lines to the target": sum(place.link.turns for place in targets._pool.members),
            "inputs in line": self.service.sessions.reading._waiting,
        }
        return [f"{count} {name}" for name, count in held.items() if count]

    def _grown(self) -> list[str]:
        now, limits = self._sizes(), (MORE_TASKS, MORE_DESCRIPTORS, MORE_BYTES)
        if self.baseline == (0, 0, 0):
            self.baseline = now
        names = ("tasks", "descriptors", "bytes")
        return [
            f"{after - before} more {name} than at first"
            for name, before, after, limit in zip(names, self.baseline, now, limits, strict=True)
            if after - before > limit
        ]

    def _sizes(self) -> tuple[int, int, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        tasks = len(asyncio.all_tasks())
        return tasks, len(os.listdir("/proc/self/fd")), pages * resource.getpagesize()


@contextmanager
def engines(folder: Path):  # type: ignore[no-untyped-def]
    """Target and draft, tiny."""
    limits = {"max_context_tokens": CONTEXT_TOKENS, "queue": 4, "slots": 4, "rows": 4}
    with ExitStack() as stack:
        target = tiny_models.save_model(folder / "target-model")
        draft = tiny_models.save_model(folder / "draft-model", change=tiny_models.blur)
        yield (
            stack.enter_context(running_engine(target, "target", **limits)),
            stack.enter_context(running_engine(draft, "draft", **limits)),
        )


@asynccontextmanager
async def world(folder: Path, target: EngineHost, draft: EngineHost) -> AsyncIterator[World]:
    """The three services over engines."""
    errors = Errors()
    logging.getLogger().addHandler(errors)
    stack = Stack(folder)
    try:
        await stack.start_target(target)
        await stack.start_draft(draft)
        service = await stack.start_session()
        async with AsyncExitStack() as exits:
            addresses = (f"unix:{folder}/session", stack.target, stack.draft)
            channels = [
                await exits.enter_async_context(
                    grpc.aio.insecure_channel(
                        address, options=[("grpc.max_send_message_length", -1)]
                    )
                )
                for address in addresses
            ]
            expected = (await generate(service.client, "def f(", **PROBE)).tokens
            yield World(target, draft, service, tuple(channels), errors, expected)  # type: ignore[arg-type]
    finally:
        await stack.close()
        logging.getLogger().removeHandler(errors)
