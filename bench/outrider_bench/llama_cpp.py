"""The peer llama.cpp: its `llama-server`, plain and with a draft model, asked over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
import urllib.error
import urllib.request
from asyncio.subprocess import DEVNULL, Process
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider_server.core.errors import StartupError

from .tasks import Outcome, Task

BINARY = "llama-server"
START_SECONDS = 60.0
ANSWER_SECONDS = 600.0
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LlamaFiles:
    """The binary and both models."""

    binary: Path
    target: Path
    draft: Path | None
    context: int
    threads: int


def find_binary(folder: Path) -> Path:
    """The server's binary in a folder, or its `bin`. Raises StartupError."""
    for path in (folder / BINARY, folder / "bin" / BINARY):
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise StartupError(f"{folder} holds no {BINARY}")


class LlamaServer:
    """One `llama-server` in one mode, as a system. `guesses` 0 runs it without the draft."""

    def __init__(self, files: LlamaFiles, guesses: int) -> None:
        self.name = f"llama.cpp draft {guesses}" if guesses else "llama.cpp plain"
        self._files = files
        self._guesses = guesses
        self._port = _free_port()
        self._process: Process | None = None

    async def start(self) -> None:
        """Starts the server and waits until it is healthy. Raises StartupError."""
        self._process = await asyncio.create_subprocess_exec(
            *self.command(), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + START_SECONDS
        while not await asyncio.to_thread(self._healthy):
            if self._process.returncode is not None or time.monotonic() > deadline:
                raise StartupError(f"{self.name} did not start: {' '.join(self.command())}")
            await asyncio.sleep(0.2)

    def command(self) -> list[str]:
        """What is run: one session, no prompt kept for later, no pages but the API's."""
        files = self._files
        command = [str(files.binary), "--model", str(files.target), "--port", str(self._port)]
        command += ["--host", "127.0.0.1", "--ctx-size", str(files.context), "--parallel", "1"]
        command += ["--threads", str(files.threads), "--cache-ram", "0", "--offline"]
        if self._guesses:
            command += ["--spec-draft-model", str(files.draft), "--spec-type", "draft-simple"]
            command += ["--spec-draft-n-max", str(self._guesses), "--spec-draft-n-min", "0"]
            command += ["--spec-draft-p-min", "0", "--spec-draft-threads", str(files.threads)]
        return command

    async def run(self, task: Task) -> Outcome:
        """One completion of exactly the task's number of tokens, timed from here."""
        question = {
            "prompt": list(task.prompt),
            "n_predict": task.tokens,
            "temperature": task.temperature,
            "seed": task.seed,
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "samplers": ["temperature"],
        }
        started = time.perf_counter()
        answer = await asyncio.to_thread(self._post, question)
        seconds = time.perf_counter() - started
        timings = answer.get("timings", {})
        return Outcome(tuple(answer["tokens"]), seconds, details=timings)

    async def stop(self) -> None:
        """Ends the server."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def _healthy(self) -> bool:
        try:
            with urllib.request.urlopen(self._url("health"), timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _post(self, question: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self._url("completion"),
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as reply:
                return dict(json.loads(reply.read()))
        except (urllib.error.URLError, OSError) as error:
            raise StartupError(f"{self.name} does not answer: {error}") from error

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}/{path}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
