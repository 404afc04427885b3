"""The peer llama.cpp: its `llama-server` in one mode, asked over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outrider_server.core.errors import StartupError

from .cpu_level import PinnedLevel
from .llama_build import check_features, features, pinned_binary
from .llama_modes import DRAFT, LlamaMode
from .tasks import Outcome, Task

START_SECONDS = 60.0
ANSWER_SECONDS = 600.0
STOP_SECONDS = 10.0
TRACE = "4"
"""The verbosity at which a server says which instructions it uses."""


@dataclass(frozen=True, slots=True)
class LlamaFiles:
    """The binary and both models."""

    binary: Path
    target: Path
    draft: Path | None
    context: int
    threads: int


def level_binary(binary: Path, level: PinnedLevel | None, scratch: Path) -> Path:
    """The server's binary for a level, made in `scratch` where need be. Raises StartupError.

    Starts it once, without a model, to see that it uses the level's instructions.
    """
    if level is None:
        return binary
    pinned = pinned_binary(binary, level, scratch)
    command = [str(pinned), "--model", str(scratch / "none.gguf"), "--log-verbosity", TRACE]
    said = subprocess.run(
        [*command, "--offline"], capture_output=True, text=True, timeout=START_SECONDS, check=False
    )
    check_features(features(said.stdout + said.stderr), level)
    return pinned


class LlamaServer:
    """One `llama-server` in one mode, as a system."""

    def __init__(self, files: LlamaFiles, mode: LlamaMode) -> None:
        self.name = f"llama.cpp {mode.name}"
        self.ready_seconds = 0.0
        self._files = files
        self._mode = mode
        self._port = _free_port()
        self._process: Process | None = None

    async def start(self) -> None:
        """Starts the server and waits until it is healthy. Raises StartupError."""
        started = time.monotonic()
        self._process = await asyncio.create_subprocess_exec(
            *self.command(), stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
        )
        while not await asyncio.to_thread(self._healthy):
            status = self._process.returncode
            if status is not None or time.monotonic() > started + START_SECONDS:
                why = f"within {START_SECONDS:g} s" if status is None else f"(status {status})"
                raise StartupError(f"{self.name} did not start {why}: {' '.join(self.command())}")
            await asyncio.sleep(0.05)
        self.ready_seconds = time.monotonic() - started

    def command(self) -> list[str]:
        """What is run: one session, no prompt kept for later, no pages but the API's."""
        files = self._files
        command = [str(files.binary), "--model", str(files.target), "--port", str(self._port)]
        command += ["--host", "127.0.0.1", "--ctx-size", str(files.context), "--parallel", "1"]
        command += ["--threads", str(files.threads), "--cache-ram", "0", "--offline"]
        if DRAFT in self._mode.types:
            command += ["--spec-draft-model", str(files.draft)]
            command += ["--spec-draft-threads", str(files.threads)]
        return command + self._mode.options

    async def run(self, task: Task) -> Outcome:
        """One completion, timed from here: of exactly the task's number of tokens, unless it is a chat."""
        question = {
            "prompt": list(task.prompt),
            "n_predict": task.tokens,
            "temperature": task.temperature,
            "seed": task.seed,
            "ignore_eos": not task.chat,
            "stream": task.chat,
            "cache_prompt": False,
            "return_tokens": True,
            "top_k": 0,
            "top_p": 1.0,
            "min_p": 0.0,
            "samplers": ["temperature"],
        }
        return await asyncio.to_thread(self._ask, question)

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

    def _ask(self, question: dict[str, Any]) -> Outcome:
        tokens: list[int] = []
        timings: dict[str, Any] = {}
        first_seconds = None
        started = time.perf_counter()
        for answer in self._answers(question):
            tokens += answer.get("tokens", ())
            timings = answer.get("timings", timings)
            if question["stream"] and tokens and first_seconds is None:
                first_seconds = time.perf_counter() - started
        seconds = time.perf_counter() - started
        details = self._mode.details | timings
        if timings.get("draft_n"):
            details["accepted"] = timings["draft_n_accepted"]
        elif not self._mode.types:
            details["accepted"] = 0
        return Outcome(tuple(tokens), seconds, first_seconds, details)

    def _answers(self, question: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The parts of the answer as they come; a single one where it is not streamed."""
        request = urllib.request.Request(
            self._url("completion"),
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as reply:
                for line in reply:
                    content = line.removeprefix(b"data: ").strip()
                    if content and content != b"[DONE]":
                        yield dict(json.loads(content))
        except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
            raise StartupError(f"{self.name} does not answer: {error}") from error

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}/{path}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
