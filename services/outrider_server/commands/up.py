"""`outrider-server up`: the three services as processes on this machine, started and stopped together.

The session service is what `up` stands for: `up` ends when target or session end. The draft may die; the
others go on without it.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, TypeVar

from .. import lifeline
from ..config import DRAFT_ENGINE, TARGET_ENGINE
from ..core.errors import StartupError
from ..engine.model.formats import check_target
from ..engine.model.hub import check_named
from ..engine.options import EngineOptions
from ..ledger_opening import check_ledger
from ..start_display import Display, new_display
from ..start_reports import REFUSED, VARIABLE, Listener, read, unheard
from ..stopping import Stop
from .engine_options import engine_arguments

STOP_SECONDS = 40.0
HURRY_SECONDS = 3.0
READY = "ready "
PLAIN_PATH = re.compile(r"/[\w./-]{0,79}", re.ASCII)
"""What needs no escape in an address, and leaves room for a socket's name."""

T = TypeVar("T")


class Child:
    """One service as a process of its own, which ends with this one."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.process = process
        self._asked = False

    @classmethod
    async def start(
        cls,
        name: str,
        arguments: Sequence[str],
        variables: Mapping[str, str] | None = None,
        scratch: Path | None = None,
    ) -> Child:
        """Starts `outrider-server NAME ARGUMENTS`, with these variables added to the environment.

        `scratch` is a folder to remove where this process is killed before it can.
        """
        process = await asyncio.create_subprocess_exec(
            *lifeline.python("outrider_server", name, *arguments),
            stdout=PIPE,
            **lifeline.bound({**(variables or {}), VARIABLE: name}, scratch),
        )
        return cls(name, process)

    async def ready(self, listen: Listener = unheard) -> str:
        """Its address, once it serves; what it reports before is told. Raises StartupError, with the child's
        own reason where it gave one, when it ends before."""
        assert self.process.stdout is not None
        reason = f"the {self.name} service did not start; its message is above"
        async for line in self.process.stdout:
            text = line.decode().strip()
            if text.startswith(READY):
                return text.removeprefix(READY)
            if text.startswith(REFUSED):
                reason = text.removeprefix(REFUSED)
            elif (report := read(text)) is not None:
                listen(*report)
        await self.process.wait()
        raise StartupError(reason)

    async def stop(self) -> None:
        """Asks it to drain; kills it if it does not end in time."""
        self._ask()
        await self._end_within(STOP_SECONDS)

    async def hurry(self) -> None:
        """Asks it to end without draining; kills it if it does not end soon."""
        self._ask()
        self._send(signal.SIGINT)
        await self._end_within(HURRY_SECONDS)

    def _ask(self) -> None:
        if not self._asked:
            self._send(signal.SIGTERM)
        self._asked = True

    def _send(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def _end_within(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self.process.wait(), seconds)
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            await self.process.wait()


async def run_up(
    ledger: str,
    session_arguments: Sequence[str],
    target_options: EngineOptions,
    draft_options: EngineOptions | None,
    note: str = "",
) -> int:
    """Runs the services until a signal asks to stop; returns the exit status.

    They talk over Unix sockets, which cost less than the loopback. `draft_options` None runs without a
    draft. The note is told once nothing is refused at first sight. Raises StartupError when a service does
    not start, or the ledger cannot be opened.
    """
    await check_ledger(ledger)
    check_named(target_options.folder, check_target)
    if draft_options is not None:
        check_named(draft_options.folder)
    if note:
        print(f"outrider-server: {note}", file=sys.stderr, flush=True)
    stop = Stop()
    children: list[Child] = []
    sockets = socket_folder()
    display = new_display()
    try:
        await _start_engines(children, Path(sockets.name), target_options, draft_options)
        addresses = await _unless(stop, asyncio.ensure_future(_addresses(children, display)))
        if addresses is None:
            return 0
        arguments = [*session_arguments, f"--ledger={ledger}", f"--target={addresses[0]}"]
        arguments.append(f"--draft={addresses[1] if addresses[1:] else 'none'}")
        session = await Child.start("session", arguments, scratch=Path(sockets.name))
        children.append(session)
        serving = await _unless(stop, asyncio.ensure_future(_addresses([session], display)))
        if serving is None:
            return 0
        display.close()
        print(f"{READY}{serving[0]}", flush=True)
        return await _watch(stop, children)
    finally:
        display.close()
        await stop.end(_drain(children), lambda: _hurry(children))
        sockets.cleanup()


async def _start_engines(
    children: list[Child],
    folder: Path,
    target_options: EngineOptions,
    draft_options: EngineOptions | None,
) -> None:
    """Adds target and draft to the children; they start side by side."""
    arguments = engine_arguments(target_options, TARGET_ENGINE)
    arguments += [f"--listen=unix:{folder}/t"]
    children.append(await Child.start("target", arguments, scratch=folder))
    if draft_options is not None:
        arguments = engine_arguments(draft_options, DRAFT_ENGINE)
        arguments += [f"--listen=unix:{folder}/d"]
        children.append(await Child.start("draft", arguments, scratch=folder))


async def _addresses(children: Sequence[Child], display: Display) -> list[str]:
    """Where all serve, once they do, showing how far they are until then. Raises the first StartupError."""

    async def address(child: Child) -> str:
        found = await child.ready(display.show)
        display.ready(child.name)
        return found

    waiting = [asyncio.create_task(address(child)) for child in children]
    try:
        return await asyncio.gather(*waiting)
    finally:
        for each in waiting:
            each.cancel()


def socket_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder for sockets that only this user may enter, with a path that every address can hold.

    Raises StartupError where there is no place for one.
    """
    for base in (os.environ.get("TMPDIR"), os.environ.get("XDG_RUNTIME_DIR"), "/tmp", "/var/tmp"):
        if base and PLAIN_PATH.fullmatch(base):
            with suppress(OSError):
                return tempfile.TemporaryDirectory(prefix="outrider-", dir=base)
    raise StartupError(
        "there is no folder for sockets; set TMPDIR to one that can be written to, with a path of at most "
        "80 letters and digits"
    )


async def _hurry(children: Sequence[Child]) -> None:
    await asyncio.gather(*(child.hurry() for child in children))


async def _drain(children: Sequence[Child]) -> None:
    """The last one first: a session service that drains needs the others."""
    for child in reversed(children):
        await child.stop()


async def _unless(stop: Stop, wanted: asyncio.Future[T]) -> T | None:
    """The future's result, or None when the stop signal comes first."""
    stopping = asyncio.create_task(stop.asked.wait())
    both: set[asyncio.Task[Literal[True]] | asyncio.Future[T]] = {stopping, wanted}
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if wanted.done():
        return wanted.result()
    wanted.cancel()
    await asyncio.wait({wanted})
    if not wanted.cancelled():
        wanted.exception()  # seen, and of no interest any more
    return None


async def _watch(stop: Stop, children: Sequence[Child]) -> int:
    """Waits for the stop signal, or for the end of a service that the others need."""
    stopping = asyncio.create_task(stop.asked.wait())
    ends = {asyncio.create_task(child.process.wait()): child for child in children}
    waiting = {stopping, *ends}
    while True:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if stopping in done:
            return 0
        for task in done:
            child = ends[task]
            print(f"outrider: the {child.name} service ended", file=sys.stderr, flush=True)
            if child.name != "draft":
                return 1
