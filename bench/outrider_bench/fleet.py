"""Outrider as it is deployed: target, draft and session services as processes, asked through the SDK.

Each service runs with the defaults of its command, beside what a suite has to vary.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import outrider
from outrider_server.commands.up import Child, socket_folder

from .machine import cpu_seconds, resident_bytes
from .tasks import Outcome, Task

WARM_UP_TOKENS = 16
NO_DRAFT = "none"
"""What the session service, and the benchmark's options, call having no draft."""

COMPILE = "auto"
"""How the engines run: recorded on CPUs, compiled elsewhere."""


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """What the services are started with."""

    target: Path
    draft: Path | None
    """None: the session service has no draft."""
    slots: int = 8
    context: int = 0
    """Longest session in tokens; 0 takes the models' own."""
    engine_options: tuple[str, ...] = ()
    """Further options of target and draft, which override those that they share."""
    target_options: tuple[str, ...] = ()
    """Further options of the target alone."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment of target and draft."""


class Fleet:
    """Running services. `address` is the session service's."""

    def __init__(
        self,
        options: FleetOptions,
        children: Mapping[str, Child],
        addresses: Mapping[str, str],
        ready_seconds: float,
    ) -> None:
        self.options = options
        self._children = children
        self.target_address, self.address = addresses["target"], addresses["session"]
        self.draft_address = addresses.get("draft", NO_DRAFT)
        self.ready_seconds = ready_seconds
        """From the start of the first service, one after the other, until a client may ask."""

    def resident_bytes(self) -> dict[str, int]:
        """Resident memory of each service, in bytes."""
        return {name: resident_bytes(child.process.pid) for name, child in self._children.items()}

    def cpu_seconds(self) -> dict[str, float]:
        """What each service has used of the processors since its start, in seconds."""
        return {name: cpu_seconds(child.process.pid) for name, child in self._children.items()}


@asynccontextmanager
async def running_fleet(options: FleetOptions) -> AsyncIterator[Fleet]:
    """The three services, started and, at the end, stopped. Raises StartupError."""
    async with AsyncExitStack() as stack:
        started = time.perf_counter()
        shared = [f"--slots={options.slots}", f"--compile={COMPILE}"]
        shared += [f"--max-context-tokens={options.context}", *options.engine_options]
        folder = stack.enter_context(socket_folder())
        # One after the other: two models that start at once share the same cores.
        target, target_address = await _started(
            stack,
            "target",
            [
                *shared,
                *options.target_options,
                f"--model={options.target}",
                f"--listen=unix:{folder}/t",
            ],
            folder,
            options.variables,
        )
        children, addresses = {"target": target}, {"target": target_address}
        if options.draft is not None:
            # The network suite puts a TCP proxy before the draft.
            children["draft"], addresses["draft"] = await _started(
                stack,
                "draft",
                [*shared, f"--model={options.draft}", "--listen=127.0.0.1:0"],
                folder,
                options.variables,
            )
        children["session"], addresses["session"] = await stack.enter_async_context(
            running_session(target_address, addresses.get("draft", NO_DRAFT))
        )
        yield Fleet(options, children, addresses, time.perf_counter() - started)


@asynccontextmanager
async def running_session(target: str, draft: str) -> AsyncIterator[tuple[Child, str]]:
    """A session service between a target and a draft, on a ledger of its own. Raises StartupError."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        arguments = [f"--target={target}", f"--draft={draft}", "--listen=127.0.0.1:0"]
        yield await _started(
            stack, "session", [*arguments, f"--ledger={Path(folder) / 'ledger.db'}"], folder
        )


async def _started(
    stack: AsyncExitStack,
    name: str,
    arguments: Sequence[str],
    scratch: str,
    variables: Mapping[str, str] | None = None,
) -> tuple[Child, str]:
    child = await Child.start(name, arguments, variables, Path(scratch))
    stack.push_async_callback(child.stop)
    return child, await child.ready()


class OutriderSystem:
    """One configuration of Outrider's turns. Each run is a session of its own, deleted afterwards."""

    def __init__(
        self,
        name: str,
        client: outrider.AsyncClient,
        draft: outrider.DraftMode,
        max_window: int | None = None,
        loop: outrider.LoopMode | None = None,
    ) -> None:
        self.name = name
        self._client = client
        self._settings: dict[str, Any] = {"draft": draft, "max_window": max_window, "loop": loop}

    async def run(self, task: Task) -> Outcome:
        """Runs the task as a client would, timed there."""
        session = await self._client.create_session()
        try:
            return await self.run_in(session, task)
        finally:
            await session.delete()

    async def run_in(self, session: outrider.AsyncSession, task: Task) -> Outcome:
        """Runs the task in a session that may have had turns."""
        reply = session.generate(
            task.prompt,
            max_new_tokens=task.tokens,
            temperature=task.temperature,
            seed=task.seed,
            **self._settings,
        )
        started = time.perf_counter()
        arrivals = [time.perf_counter() async for _ in reply]
        seconds = time.perf_counter() - started
        first_seconds = arrivals[0] - started if arrivals else None
        sources = "".join(event.source.value[0] for event in reply.events)
        details = dataclasses.asdict(reply.summary) | {"sources": sources}
        return Outcome(tuple(reply.tokens), seconds, first_seconds, details, tuple(arrivals))


async def warm_up(system: OutriderSystem, task: Task) -> None:
    """One short turn, so that the first one measured pays for no lazy start."""
    await system.run(dataclasses.replace(task, tokens=WARM_UP_TOKENS))
