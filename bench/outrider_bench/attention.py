"""Attention kernels beside each other: time and peak memory at a long context, and whether tokens differ.

`python -m outrider_bench.attention` prints a table in Markdown. Each kernel gets a process of its
own, so that no one's memory is another's. A prompt is read in chunks, then tokens are generated one by one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from outrider_server import lifeline
from outrider_server.core.errors import StartupError
from outrider_server.engine.options import ATTENTIONS
from outrider_server.models import TARGET_FOLDER

from .model_cache import cache_folder
from .prompts import Prompts
from .widening import LONGEST_POSITIONS, lengthened, widened

if TYPE_CHECKING:
    from outrider_server.engine.engine import Engine

GENERATED = 32
FULL_STEPS = 24
WIDTH = 8
KERNELS = tuple(name for name in ATTENTIONS if name != "auto")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one kernel did."""

    prefill_ms_a_token: float
    step_ms: float
    """Median verify step of one row of `WIDTH` tokens at the end of the context."""
    peak_mib: float
    """Resident memory beyond what the started engine held, at its highest."""
    tokens: list[int]


def measure(folder: Path, kernel: Attention, arguments: argparse.Namespace) -> Measured:
    """Builds an engine and runs it. Raises StartupError where the kernel cannot run here."""
    from outrider_server.engine.audit import GREEDY
    from outrider_server.host.building import engine_builder
    from outrider_server.engine.layout import Row
    from outrider_server.engine.options import EngineOptions

    build: Callable[[], Engine] = engine_builder(
        EngineOptions(
            folder=folder,
            dtype=arguments.dtype,
            device=arguments.device,
            slots=1,
            rows=1,
            width=WIDTH,
            prefill_width=arguments.prefill_width,
            max_context_tokens=arguments.tokens + FULL_STEPS * WIDTH + GENERATED,
            compile=arguments.compile,
            threads=arguments.threads,
            attention=kernel,
            park_bytes=0,
        )
    )
    engine = build()
    runner, chunk = engine.runner, arguments.prefill_width
    prompt = Prompts.of(folder).take_long(arguments.tokens)[1]
    runner.draws.write(0, GREEDY)
    held = _reset_peak()
    started = time.perf_counter()
    for start in range(0, len(prompt) - 1, chunk):
        runner.prefill(Row(0, start, prompt[start : min(start + chunk, len(prompt) - 1)]))
    prefill_ms = (time.perf_counter() - started) * 1000 / (len(prompt) - 1)
    tokens = [prompt[-1]]
    for position in range(len(prompt) - 1, len(prompt) - 1 + GENERATED):
        tokens += runner.decide([Row(0, position, (tokens[-1],))], 1)[0].tokens
    times = []
    for index in range(FULL_STEPS):
        started = time.perf_counter()
        runner.decide([Row(0, len(prompt) + WIDTH * index, prompt[:WIDTH])], 1)
        times.append((time.perf_counter() - started) * 1000)
    peak_mib = (_peak_bytes() - held) / 2**20
    return Measured(prefill_ms, statistics.median(times), peak_mib, tokens[1:])


def _reset_peak() -> int:
    """Forgets the highest resident memory so far; returns the present one in bytes. Linux only."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise StartupError("this system does not tell a process its highest memory; use Linux")


def main() -> None:
    """Prints the table, or in a process of its own the figures of one kernel."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=TARGET_FOLDER)
    parser.add_argument("--widen", type=float, default=0.0, help="millions of weights to cost")
    parser.add_argument("--tokens", type=int, default=2000)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prefill-width", type=int, default=64)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        try:
            print(json.dumps(asdict(measure(arguments.model, arguments.one, arguments))))
        except StartupError as error:
            print(json.dumps(str(error)))
        return
    folder = (
        widened(arguments.model, arguments.widen, cache_folder())
        if arguments.widen
        else lengthened(arguments.model, LONGEST_POSITIONS, cache_folder())
    )
    _print_table(folder)


def _print_table(folder: Path) -> None:
    print(
        "| kernel | prefill, ms/token | step, ms | peak, MiB | tokens |",
        "|---|---|---|---|---|",
        sep="\n",
    )
    first: list[int] | None = None
    for kernel in KERNELS:
        command = lifeline.python(__spec__.name, *sys.argv[1:])
        own = [f"--model={folder}", f"--one={kernel}"]
        answer = json.loads(
            subprocess.run([*command, *own], check=True, stdout=subprocess.PIPE).stdout
        )
        if isinstance(answer, str):
            print(f"| {kernel} | {answer} | | | |", flush=True)
            continue
        found = Measured(**answer)
        first = first or found.tokens
        same = sum(a == b for a, b in zip(first, found.tokens, strict=True))
        print(
            f"| {kernel} | {found.prefill_ms_a_token:.3f} | {found.step_ms:.2f} "
            f"| {found.peak_mib:.1f} | {same} of {GENERATED} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
