"""The peers of a decode run: which are there, and which of its settings each one competes with."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .llama_cpp import LlamaFiles, LlamaServer, find_binary
from .model_cache import cache_folder
from .models import Models
from .peer_process import PeerProcess, PeerSystem
from .settings import BenchSettings
from .tasks import System, Task

ASSISTED = (3, 5, 8)
LLAMA_DRAFTS = (0, 3, 5, 8, 16)
THRESHOLDS = (0.0, 0.4)
"""Confidence below which the library's assistant stops guessing; 0.4 is its default."""
COLOCATED = (("synchronous", 3), ("synchronous", 5), ("run_ahead", 7))
WARM_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Contestant:
    """A system with several settings, the fastest of which competes."""

    settings: Sequence[System]

    async def fastest(self, task: Task) -> System:
        """Warms each setting up, runs the task with each, and returns the fastest one."""
        if len(self.settings) == 1:
            await self.settings[0].run(task)
            return self.settings[0]
        speeds = []
        for system in self.settings:
            await system.run(replace(task, tokens=WARM_TOKENS))
            outcome = await system.run(task)
            speeds.append((outcome.tokens_per_second, system))
        return max(speeds, key=lambda entry: entry[0])[1]


@asynccontextmanager
async def running_peers(
    settings: BenchSettings, models: Models, context: int, report: Callable[[str], None]
) -> AsyncIterator[list[Contestant]]:
    """The peers, started and idle. The co-located pair is always there. Raises StartupError."""
    async with AsyncExitStack() as stack:
        folders = [f"--target={models.target}", f"--draft={models.draft}"]
        colocated = await _process(stack, "colocated", [*folders, f"--context={context}"])
        contestants = [Contestant(_colocated(colocated))]
        if settings.peers:
            library = await _process(stack, "transformers_peer", folders)
            contestants += _transformers(library)
        if settings.peers and settings.llama_cpp is not None:
            report("decode: starting llama.cpp")
            contestants += await _llama(stack, settings.llama_cpp, models, context)
        yield contestants


async def _process(stack: AsyncExitStack, name: str, arguments: Sequence[str]) -> PeerProcess:
    peer = await PeerProcess.start(name, f"{__package__}.{name}", arguments)
    stack.push_async_callback(peer.stop)
    return peer


def _colocated(peer: PeerProcess) -> list[System]:
    return [
        PeerSystem("co-located", peer, {"loop": loop, "window": window})
        for loop, window in COLOCATED
    ]


def _transformers(peer: PeerProcess) -> list[Contestant]:
    """The library's modes, each with one thread and with all cores."""

    def contestant(name: str, *modes: dict[str, Any]) -> Contestant:
        return Contestant(
            [
                PeerSystem(f"transformers {name}", peer, mode | {"threads": threads})
                for mode in modes
                for threads in sorted({1, os.cpu_count() or 1})
            ]
        )

    assisted = [
        contestant(
            f"assisted {guesses}",
            *(
                {"mode": "assisted", "guesses": guesses, "threshold": threshold}
                for threshold in THRESHOLDS
            ),
        )
        for guesses in ASSISTED
    ]
    return [
        contestant("plain", {"mode": "plain"}),
        *assisted,
        contestant("lookup", {"mode": "lookup", "guesses": 5}),
        contestant("static compiled", {"mode": "static"}),
    ]


async def _llama(
    stack: AsyncExitStack, folder: Path, models: Models, context: int
) -> list[Contestant]:
    from .gguf_file import gguf_of  # the package gguf, which nothing else needs

    cache = cache_folder()
    files = LlamaFiles(
        find_binary(folder),
        gguf_of(models.target, cache),
        gguf_of(models.draft, cache),
        context,
        os.cpu_count() or 1,
    )
    servers = [LlamaServer(files, guesses) for guesses in LLAMA_DRAFTS]
    for server in servers:
        stack.push_async_callback(server.stop)
        await server.start()
    return [Contestant([server]) for server in servers]
