"""One attention kernel at a long context: time, peak memory, and its tokens.

Runs as a process, so that no other kernel's memory is this one's: `python -m outrider_bench.attention_kernel
RUN`, where RUN is a `KernelRun` as JSON. Prints `Measured` as JSON, or a sentence where it cannot run here.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from outrider_server.core.errors import StartupError
from outrider_server.engine.options import Attention, CompileMode, Dtype, EngineOptions

from .prompts import Prompts

if TYPE_CHECKING:
    from outrider_server.engine.engine import Engine

GENERATED = 32
FULL_STEPS = 24
WIDTH = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRun:
    """What is asked of one kernel."""

    folder: str
    kernel: Attention
    tokens: int
    dtype: Dtype
    device: str
    compile: CompileMode
    threads: int
    prefill_width: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What one kernel did."""

    prefill_ms_a_token: float
    step_ms: float
    """Median verify step of one row of `WIDTH` tokens at the end of the context."""
    peak_mib: float
    """Resident memory beyond what the started engine held, at its highest."""
    tokens: list[int]


def measure(run: KernelRun) -> Measured:
    """Builds an engine and runs it. Raises StartupError where the kernel cannot run here."""
    from outrider_server.engine.layout import Row
    from outrider_server.engine.readying import GREEDY

    runner, chunk = _engine(run).runner, run.prefill_width
    prompt = Prompts.of(Path(run.folder)).take_long(run.tokens)[1]
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


def _engine(run: KernelRun) -> Engine:
    from outrider_server.host.building import engine_builder

    build: Callable[[], Engine] = engine_builder(
        EngineOptions(
            folder=Path(run.folder),
            dtype=run.dtype,
            device=run.device,
            slots=1,
            rows=1,
            width=WIDTH,
            prefill_width=run.prefill_width,
            max_context_tokens=run.tokens + FULL_STEPS * WIDTH + GENERATED,
            compile=run.compile,
            threads=run.threads,
            attention=run.kernel,
            park_bytes=0,
        )
    )
    return build()


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
    """The process's entry point."""
    try:
        print(json.dumps(asdict(measure(KernelRun(**json.loads(sys.argv[1]))))))
    except StartupError as error:
        print(json.dumps(str(error)))


if __name__ == "__main__":
    main()
