"""The peers of a run: which are there, and which of its settings each one competes with."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from .cpu_level import PinnedLevel, pinned_level
from .llama_build import find_binary
from .llama_cpp import LlamaFiles, LlamaServer, level_binary
from .llama_modes import llama_modes
from .model_cache import cache_folder, end_tokens
from .models import Models
from .peer_options import PeerOptions
from .peer_process import PeerProcess, PeerSystem
from .tasks import System, Task
from .weights import Weights

ASSISTED = (3, 5, 8)
OPENVINO_GUESSES = (3, 5, 8)
OPENVINO_KEPT = "openvino_model.xml"
THRESHOLDS = (0.0, 0.4)
"""Confidence below which the library's assistant stops guessing; 0.4 is its default."""
COLOCATED = (("synchronous", 3), ("synchronous", 5), ("run_ahead", 7))
WARM_TOKENS = 8

Report = Callable[[str], None]


class Peer(System, Protocol):
    """Another program in one mode."""

    @property
    def ready_seconds(self) -> float:
        """From the start of its process until it could be asked."""
        ...


@dataclass(frozen=True, slots=True)
class Contestant:
    """A system with several settings, the fastest of which competes."""

    settings: Sequence[Peer]

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
    options: PeerOptions, models: Models, context: int, report: Report, *, colocated: bool = True
) -> AsyncIterator[list[Contestant]]:
    """The peers, started and idle; the co-located pair, which needs a draft, whatever the options.

    Raises StartupError.
    """
    level = pinned_level() if options.others else None
    async with AsyncExitStack() as stack:
        start = _Starter(stack, level)
        folders = [
            f"--target={models.target}",
            *([f"--draft={models.draft}"] if models.draft else []),
        ]
        own = [*folders, f"--quantization={options.weights.quantization}"]
        contestants = []
        if colocated and models.draft is not None:
            peer = await start.process("colocated", [*own, f"--context={context}"])
            contestants.append(Contestant(_colocated(peer)))
        if options.others:
            report("starting transformers")
            library = await start.process("transformers_peer", own)
            contestants += _transformers(library, models, options.weights)
        if options.others and options.llama_cpp is not None:
            report("starting llama.cpp")
            contestants += await _llama(start, options.llama_cpp, options.weights, models, context)
        if options.others and options.openvino_python is not None:
            report("starting OpenVINO")
            contestants += await _openvino(start, options.openvino_python, options.weights, models)
        yield contestants


@dataclass(frozen=True, slots=True)
class _Starter:
    """Starts processes that end with the run, at the level that is pinned."""

    stack: AsyncExitStack
    level: PinnedLevel | None

    async def process(
        self, name: str, arguments: Sequence[str], python: Path | None = None
    ) -> PeerProcess:
        variables: Mapping[str, str] = self.level.variables if self.level else {}
        peer = await PeerProcess.start(name, f"{__package__}.{name}", arguments, python, variables)
        self.stack.push_async_callback(peer.stop)
        return peer


def _colocated(peer: PeerProcess) -> list[PeerSystem]:
    return [
        PeerSystem("co-located", peer, {"loop": loop, "window": window})
        for loop, window in COLOCATED
    ]


def _transformers(peer: PeerProcess, models: Models, weights: Weights) -> list[Contestant]:
    """The library's modes, each with one thread and with all cores."""

    def contestant(name: str, *modes: dict[str, Any]) -> Contestant:
        return Contestant(
            [
                PeerSystem(f"transformers {name}", peer, mode | {"threads": threads})
                for mode in modes
                for threads in sorted({1, os.cpu_count() or 1})
            ]
        )

    def assisted(guesses: int) -> Contestant:
        mode = {"mode": "assisted", "guesses": guesses}
        return contestant(
            f"assisted {guesses}", *(mode | {"threshold": threshold} for threshold in THRESHOLDS)
        )

    found = [contestant("plain", {"mode": "plain"})]
    if models.draft is not None:
        found += [assisted(guesses) for guesses in ASSISTED]
    found.append(contestant("lookup", {"mode": "lookup", "guesses": 5}))
    if weights.bits == 16:  # quantized layers do not fit into one graph
        found.append(contestant("static compiled", {"mode": "static"}))
    return found


async def _llama(
    start: _Starter, folder: Path, weights: Weights, models: Models, context: int
) -> list[Contestant]:
    from .gguf_file import GgufTypes, gguf_of  # the package gguf, which nothing else needs

    cache, types = cache_folder(), GgufTypes(layers=weights.gguf)
    scratch = Path(start.stack.enter_context(tempfile.TemporaryDirectory()))
    files = LlamaFiles(
        level_binary(find_binary(folder), start.level, scratch),
        gguf_of(models.target, cache, types),
        gguf_of(models.draft, cache, types) if models.draft else None,
        context,
        os.cpu_count() or 1,
    )
    contestants = []
    for modes in llama_modes(models.draft is not None):
        servers = [LlamaServer(files, mode) for mode in modes]
        for server in servers:
            start.stack.push_async_callback(server.stop)
            await server.start()
        contestants.append(Contestant(servers))
    return contestants


async def _openvino(
    start: _Starter, python: Path, weights: Weights, models: Models
) -> list[Contestant]:
    from .gguf_file import GgufTypes, gguf_of

    layers = "F16" if weights.bits == 16 else weights.gguf  # its reader knows no BF16
    cache, types = cache_folder(), GgufTypes(layers, "F16")
    target = gguf_of(models.target, cache, types)
    draft = gguf_of(models.draft, cache, types) if models.draft else None
    arguments = [f"--target={target}", *(f"--end={token}" for token in end_tokens(models.target))]
    arguments += [f"--draft={draft}"] if draft else []
    if start.level is not None and not start.level.multiplies_bfloat16:
        arguments.append("--precision=f32")
    if not all((file.parent / OPENVINO_KEPT).is_file() for file in filter(None, (target, draft))):
        converter = await start.process("openvino_peer", arguments, python)
        await converter.stop()
    peer = await start.process("openvino_peer", arguments, python)

    def contestant(name: str, mode: str, *settings: dict[str, Any]) -> Contestant:
        return Contestant(
            [PeerSystem(f"openvino {name}", peer, {"mode": mode, **each}) for each in settings]
        )

    guessing = [{"guesses": guesses, "backend": "PA"} for guesses in OPENVINO_GUESSES]
    found = [contestant("plain", "plain", {"backend": "PA"}, {"backend": "SDPA"})]
    found += [contestant("draft", "draft", *guessing)] if draft else []
    return [*found, contestant("lookup", "lookup", *guessing)]
