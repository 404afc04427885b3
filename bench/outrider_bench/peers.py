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
from .peer_files import library_folder, own_place, packed_file
from .peer_names import ASSISTED
from .peer_options import PeerOptions
from .peer_process import PeerProcess, PeerSystem
from .tasks import System, Task
from .weights import Weights

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
        contestants = []
        if colocated and models.draft is not None:
            folders = _folders(models.target, models.draft, options.weights)
            peer = await start.process("colocated", [*folders, f"--context={context}"])
            contestants.append(Contestant(_colocated(peer)))
        if options.takes("transformers"):
            report("starting transformers")
            contestants += await _transformers(start, options, models)
        if options.llama_cpp is not None and options.takes("llama.cpp"):
            report("starting llama.cpp")
            contestants += await _llama(start, options, options.llama_cpp, models, context)
        if options.openvino_python is not None and options.takes("openvino"):
            report("starting OpenVINO")
            contestants += await _openvino(start, options, options.openvino_python, models)
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


def _folders(target: Path, draft: Path | None, weights: Weights) -> list[str]:
    drafted = [f"--draft={draft}"] if draft else []
    return [f"--target={target}", *drafted, f"--quantization={weights.quantization}"]


async def _transformers(start: _Starter, options: PeerOptions, models: Models) -> list[Contestant]:
    """The library's modes, each with one thread and with all cores."""
    cache = cache_folder()
    target = library_folder(models.target, cache)
    draft = library_folder(models.draft, cache) if models.draft else None
    peer = await start.process("transformers_peer", _folders(target, draft, options.weights))

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
    if options.weights.bits == 16:  # quantized layers do not fit into one graph
        found.append(contestant("static compiled", {"mode": "static"}))
    return _taken(options, found)


def _taken(options: PeerOptions, contestants: Sequence[Contestant]) -> list[Contestant]:
    return [each for each in contestants if options.takes(each.settings[0].name)]


async def _llama(
    start: _Starter, options: PeerOptions, folder: Path, models: Models, context: int
) -> list[Contestant]:
    cache, layers = cache_folder(), options.weights.gguf
    scratch = Path(start.stack.enter_context(tempfile.TemporaryDirectory()))
    files = LlamaFiles(
        level_binary(find_binary(folder), start.level, scratch),
        packed_file(models.target, cache, layers),
        packed_file(models.draft, cache, layers) if models.draft else None,
        context,
        os.cpu_count() or 1,
    )
    contestants = []
    for modes in llama_modes(models.draft is not None):
        if not options.takes(f"llama.cpp {modes[0].name}"):
            continue
        servers = [LlamaServer(files, mode) for mode in modes]
        for server in servers:
            start.stack.push_async_callback(server.stop)
            await server.start()
        contestants.append(Contestant(servers))
    return contestants


async def _openvino(
    start: _Starter, options: PeerOptions, python: Path, models: Models
) -> list[Contestant]:
    # Its reader knows no BF16.
    layers = "F16" if options.weights.bits == 16 else options.weights.gguf
    cache = cache_folder()
    target = own_place(packed_file(models.target, cache, layers, "F16"), cache)
    draft = models.draft and own_place(packed_file(models.draft, cache, layers, "F16"), cache)
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
    return _taken(options, [*found, contestant("lookup", "lookup", *guessing)])
