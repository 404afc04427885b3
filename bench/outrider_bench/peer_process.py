"""A peer in a process of its own, asked over its standard streams: one JSON object a line, each way.

Peers need other libraries, threads and models in memory than the benchmark itself, and must be idle, all
threads parked, while another system runs; a process that waits for a line of input is.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from typing import Any

from outrider_server import lifeline
from outrider_server.core.errors import StartupError

from .tasks import Outcome, Task

STOP_SECONDS = 10.0
LONGEST_LINE = 1 << 24
LONGEST_MESSAGE = 300

Answer = Callable[[dict[str, Any]], dict[str, Any]]


class PeerProcess:
    """The parent's side of one peer."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self._process = process

    @classmethod
    async def start(cls, name: str, module: str, arguments: Sequence[str]) -> PeerProcess:
        """Starts `python -m MODULE ARGUMENTS` and waits until it is ready. Raises StartupError."""
        process = await asyncio.create_subprocess_exec(
            *lifeline.python(module, *arguments),
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,
            limit=LONGEST_LINE,
        )
        peer = cls(name, process)
        try:
            await peer._read()
        except BaseException:
            await peer.stop()
            raise
        return peer

    async def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """One question and its answer. Raises StartupError when the peer has ended or refuses."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        await self._process.stdin.drain()
        return await self._read()

    async def stop(self) -> None:
        """Closes its input, at which it ends; kills it if it does not in time."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            raise StartupError(f"{self.name} ended; its message is above")
        answer = dict(json.loads(line))
        if "error" in answer:
            raise StartupError(f"{self.name} cannot go on: {answer['error']}")
        return answer


class PeerSystem:
    """One mode of a peer as a system; `settings` go along with every task."""

    def __init__(self, name: str, peer: PeerProcess, settings: dict[str, Any]) -> None:
        self.name = name
        self.peer = peer
        self.settings = settings

    async def run(self, task: Task) -> Outcome:
        """Runs the task in the peer. `seconds` is taken inside it, so that asking costs it nothing."""
        question = {
            "prompt": task.prompt,
            "tokens": task.tokens,
            "temperature": task.temperature,
            "seed": task.seed,
        }
        answer = await self.peer.ask(self.settings | question)
        return Outcome(tuple(answer["tokens"]), answer["seconds"], details=self.settings)


def serve_peer(build: Callable[[], Answer]) -> None:
    """The peer's side: builds, announces itself, then answers line after line until its input ends.

    Whatever libraries print goes to standard error, so that the lines stay the peer's own.
    """
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(reply: dict[str, Any]) -> None:
        print(json.dumps(reply), file=lines, flush=True)

    try:
        answer = build()
    except Exception as error:  # told to the parent, as every error below
        say({"error": _told(error)})
        return
    say({"ready": True})
    for line in sys.stdin:
        try:
            say(answer(json.loads(line)))
        except Exception as error:
            say({"error": _told(error)})


def _told(error: Exception) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())[:LONGEST_MESSAGE]
    return text if isinstance(error, StartupError) else f"{type(error).__name__}: {text}"
