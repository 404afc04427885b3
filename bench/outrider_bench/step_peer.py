"""The engine alone, in a process of its own, for the suite `step`: device times without wire, loop or ledger.

Runs as a process: `python -m outrider_bench.step_peer --target DIR --draft DIR`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from outrider_server.commands.engines import started_host
from outrider_server.config import DRAFT_WIDTH
from outrider_server.core.types import Draw, SamplingParams, Step
from outrider_server.engine.options import EngineOptions, Quantization
from outrider_server.host.engine_host import EngineHost
from outrider_server.host.local import LocalDrafter, LocalVerifier

from .peer_lines import Answer
from .peer_process import serve_peer

BUFFER_BYTES = 1 << 29
"""Read for the bandwidth: much larger than any last cache."""
READS = 8
SLOTS = 8
LEAD = 16


class EngineBench:
    """Both engines, and what can be timed of them. All answers are device times of single steps."""

    def __init__(self, target: EngineHost, draft: EngineHost) -> None:
        self._hosts = {"target": target, "draft": draft}
        self._sessions = 0

    @classmethod
    async def start(
        cls, target: Path, draft: Path, context: int, quantization: Quantization = "none"
    ) -> EngineBench:
        """Builds the engines with the settings of the services. Raises StartupError."""
        config = partial(
            EngineOptions,
            slots=SLOTS,
            rows=SLOTS,
            max_context_tokens=context,
            quantization=quantization,
        )
        # The engine started last says how many threads the kernels of the process have.
        drafting = await started_host(config(folder=draft, width=DRAFT_WIDTH, threads=1))
        return cls(await started_host(config(folder=target)), drafting)

    async def stop(self) -> None:
        """Ends both device threads."""
        for host in self._hosts.values():
            await host.stop()

    async def run(self, question: dict[str, Any]) -> dict[str, Any]:
        """Answers one question; `what` is facts, bandwidth, verify, prefill or draft."""
        what = question.pop("what")
        return dict(await getattr(self, f"_{what}")(**question))

    async def _facts(self) -> dict[str, Any]:
        engine = self._hosts["target"].engine
        sizes, size = engine.loaded.cache_sizes, engine.loaded.dtype.itemsize
        return {
            "parameter_bytes": engine.describe().parameter_count * size,
            "cache_bytes": engine.runner.forward.cache.byte_count,
            "cache_slots": engine.limits.slots,
            "cache_positions": engine.limits.max_context_tokens,
            "cache_headroom": max(engine.limits.width, engine.limits.prefill_width),
            "position_bytes": 2 * sizes.layers * sizes.key_heads * sizes.head_dim * size,
            "threads": EngineOptions(folder=Path()).thread_count,
            "prefill_width": engine.limits.prefill_width,
            "compiled": engine.runner.compiled,
            "cores": os.cpu_count(),
        }

    async def _bandwidth(self, threads: int) -> dict[str, Any]:
        """Bytes a second of the fastest of several reads of a large buffer."""
        return {"bytes_per_second": await asyncio.to_thread(read_bandwidth, threads)}

    async def _verify(self, sessions: int, proposed: int, prompt: list[int], steps: int) -> Any:
        """Milliseconds of steps that decide one row for each of `sessions`, `proposed` guesses each."""
        host = self._hosts["target"]
        verifiers = [await self._open(host, prompt) for _ in range(sessions)]
        await self._together(host, verifiers, 0, prompt, 0)
        counters, times, rows = host.engine.counters, [], []
        for _ in range(steps):
            before = counters.device_seconds, counters.verify_steps, counters.verify_rows
            await self._together(host, verifiers, len(prompt) - 1, prompt[-1:], proposed)
            times.append(1000 * (counters.device_seconds - before[0]))
            rows.append((counters.verify_rows - before[2]) / (counters.verify_steps - before[1]))
        for verifier in verifiers:
            await verifier.close()
        return {"ms": times, "rows_per_step": sum(rows) / len(rows)}

    async def _prefill(self, prompt: list[int]) -> dict[str, Any]:
        """Milliseconds a token of reading a prompt, the last token's step included."""
        host = self._hosts["target"]
        verifier = await self._open(host, prompt)
        before = host.engine.counters.device_seconds
        await self._together(host, [verifier], 0, prompt, 0)
        seconds = host.engine.counters.device_seconds - before
        await verifier.close()
        return {"ms": 1000 * seconds, "tokens": len(prompt)}

    async def _draft(self, prompt: list[int]) -> dict[str, Any]:
        """Milliseconds a guess, once the prompt has been read: those that are timed wait for the clock."""
        host = self._hosts["draft"]
        self._sessions += 1
        draw = Draw(SamplingParams(temperature=0.0), 1, len(prompt))
        name = f"bench-{self._sessions}"
        drafter = await LocalDrafter.open(host, name, 1, prompt, draw, lead=1)
        first = await drafter.take(len(prompt), 1, 1)
        counters = host.engine.counters
        before = counters.device_seconds, counters.verify_steps
        drafter.pace(LEAD, 1)
        drafter.commit(len(prompt), first.tokens)
        await drafter.take(len(prompt) + 1, LEAD, LEAD)
        seconds, steps = counters.device_seconds - before[0], counters.verify_steps - before[1]
        await drafter.close()
        return {"ms": 1000 * seconds / max(1, steps)}

    async def _open(self, host: EngineHost, prompt: Sequence[int]) -> LocalVerifier:
        self._sessions += 1
        draw = Draw(SamplingParams(temperature=0.0), 1, len(prompt))
        return await LocalVerifier.open(host, f"bench-{self._sessions}", 1, prompt, draw)

    async def _together(
        self,
        host: EngineHost,
        verifiers: Sequence[LocalVerifier],
        start: int,
        context: Sequence[int],
        proposed: int,
    ) -> None:
        """One verify of each session, all of them waiting before the device thread looks."""
        step = Step(start, tuple(context), tuple(context[-1:]) * proposed)
        gate = threading.Event()

        def hold() -> None:
            gate.wait()

        host.device.wake(hold)
        waiting = [asyncio.create_task(verifier.verify(step)) for verifier in verifiers]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*waiting)


def read_bandwidth(threads: int) -> float:
    """Bytes a second at which a buffer that no cache holds is read, best of several."""
    torch.set_num_threads(threads)
    buffer = torch.ones(BUFFER_BYTES // 4)
    best = 0.0
    for _ in range(READS):
        started = time.perf_counter()
        buffer.sum()
        best = max(best, BUFFER_BYTES / (time.perf_counter() - started))
    return best


def main() -> None:
    """Answers on the standard streams until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--draft", type=Path, required=True)
    parser.add_argument("--context", type=int, default=0)
    parser.add_argument("--quantization", default="none")
    arguments = parser.parse_args()
    with asyncio.Runner() as runner:

        def build() -> Answer:
            engines = runner.run(
                EngineBench.start(
                    arguments.target, arguments.draft, arguments.context, arguments.quantization
                )
            )
            return lambda question: runner.run(engines.run(question))

        serve_peer(build)


if __name__ == "__main__":
    main()
