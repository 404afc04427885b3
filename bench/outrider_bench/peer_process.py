"""A peer in a process of its own, asked over its standard streams: one JSON object a line, each way.

Peers need other libraries, threads and models in memory than the benchmark itself, and must be idle, all
threads parked, while another system runs; a process that waits for a line of input is.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from outrider_server import lifeline
from outrider_server.core.errors import StartupError

from . import peer_lines
from .peer_lines import Answer
from .tasks import Outcome, Task

STOP_SECONDS = 10.0
LONGEST_LINE = 1 << 24
ELSEWHERE = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
"""Runs a module of this package in another Python, whose own packages come first."""
PACKAGES = str(Path(__file__).resolve().parents[1])
"""The folder that this package is in."""


class PeerProcess:
    """The parent's side of one peer."""

    def __init__(self, name: str, process: Process) -> None:
        self.name = name
        self.ready_seconds = 0.0
        self._process = process

    @classmethod
    async def start(
        cls,
        name: str,
        module: str,
        arguments: Sequence[str],
        python: Path | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> PeerProcess:
        """Starts `python -m MODULE ARGUMENTS` and waits until it is ready. Raises StartupError.

        `python` is another Python than this one, for a module that needs only the standard library of it
        and what is installed there. `variables` are added to its environment.
        """
        started = time.perf_counter()
        command = lifeline.python(module, *arguments)
        if python is not None:
            command = [str(python), "-P", "-c", ELSEWHERE, PACKAGES, module, *arguments]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            start_new_session=True,
            limit=LONGEST_LINE,
            env={**os.environ, **(variables or {})},
        )
        peer = cls(name, process)
        try:
            await peer._read()
        except BaseException:
            await peer.stop()
            raise
        peer.ready_seconds = time.perf_counter() - started
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
            raise StartupError(f"{self.name} {how_it_ended(await self._process.wait())}")
        answer = dict(json.loads(line))
        if "error" in answer:
            raise StartupError(f"{self.name} cannot go on: {answer['error']}")
        return answer


class PeerSystem:
    """One mode of a peer as a system; `settings` go along with every task.

    An answer has `tokens` and `seconds`; the first token's time and what was accepted where the peer knows.
    """

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
            "chat": task.chat,
        }
        answer = await self.peer.ask(self.settings | question)
        details = {key: answer[key] for key in ("accepted",) if answer.get(key) is not None}
        first_seconds = answer.get("first_seconds")
        return Outcome(
            tuple(answer["tokens"]), answer["seconds"], first_seconds, self.settings | details
        )

    @property
    def ready_seconds(self) -> float:
        """From the start of its process until it could be asked."""
        return self.peer.ready_seconds


def how_it_ended(status: int) -> str:
    """In words, the exit status of a process that has ended by itself: below zero where a signal ended it."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return "ended; its message is above"


def serve_peer(build: Callable[[], Answer]) -> None:
    """`peer_lines.serve_peer` for peers that are part of this installation."""
    peer_lines.serve_peer(build, (StartupError,))
