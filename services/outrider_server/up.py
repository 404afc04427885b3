"""`outrider-server up`: the three services as processes on this machine, started and stopped together.

The session service is what `up` stands for: `up` ends when target or session end. The draft may die; the
others go on without it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence

from .speculation.errors import StartupError

STOP_SECONDS = 40.0
READY = "ready "


class Child:
    """One service as a process of its own."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process

    @classmethod
    async def start(
        cls, name: str, arguments: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> Child:
        """Starts `outrider-server NAME ARGUMENTS`, with these variables added to the environment."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "outrider_server",
            name,
            *arguments,
            stdout=PIPE,
            start_new_session=True,
            env={**os.environ, **(variables or {})},
        )
        return cls(name, process)

    async def ready(self) -> str:
        """Its address, once it serves. Raises StartupError when it ends before."""
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            text = line.decode().strip()
            if text.startswith(READY):
                return text.removeprefix(READY)
        await self.process.wait()
        raise StartupError(f"the {self.name} service did not start; its message is above")

    async def stop(self) -> None:
        """Asks it to drain; kills it if it does not end in time."""
        if self.process.returncode is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


async def run_up(
    session_arguments: Sequence[str],
    target_arguments: Sequence[str],
    draft_arguments: Sequence[str] | None,
) -> int:
    """Runs the services until SIGTERM or SIGINT; returns the exit status.

    They talk over Unix sockets, which cost less than the loopback. `draft_arguments` None runs without a
    draft. Raises StartupError when a service does not start.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    children: list[Child] = []
    sockets = tempfile.TemporaryDirectory(prefix="outrider-")
    try:
        target = await Child.start("target", [f"--listen=unix:{sockets.name}/t", *target_arguments])
        children.append(target)
        if draft_arguments is not None:
            listen = f"--listen=unix:{sockets.name}/d"
            children.append(await Child.start("draft", [listen, *draft_arguments]))
        starting = asyncio.gather(*(child.ready() for child in children))
        addresses = await _unless(stop, starting)
        if addresses is None:
            return 0
        links = ["--target", addresses[0], "--draft", addresses[1] if addresses[1:] else "none"]
        session = await Child.start("session", [*session_arguments, *links])
        children.append(session)
        address = await _unless(stop, asyncio.ensure_future(session.ready()))
        if address is None:
            return 0
        print(f"{READY}{address}", flush=True)
        return await _watch(stop, children)
    finally:
        for child in reversed(children):
            await child.stop()
        sockets.cleanup()


async def _unless(stop: asyncio.Event, wanted: asyncio.Future):  # type: ignore[no-untyped-def, type-arg]
    """The future's result, or None when the stop signal comes first."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({stopping, wanted}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if wanted.done():
        return wanted.result()
    wanted.cancel()
    return None


async def _watch(stop: asyncio.Event, children: Sequence[Child]) -> int:
    """Waits for the stop signal, or for the end of a service that the others need."""
    stopping = asyncio.create_task(stop.wait())
    ends = {asyncio.create_task(child.process.wait()): child for child in children}
    waiting = {stopping, *ends}
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if stopping in done:
            return 0
        for task in done:
            child = ends[task]  # type: ignore[index]
            print(f"outrider: the {child.name} service ended", file=sys.stderr, flush=True)
            if child.name != "draft":
                return 1
