"""The co-located baseline: both models in one process, the same decode loop, no wire and no ledger.

What the services add to it is their price. Runs as a process:
`python -m outrider_bench.colocated --target DIR --draft DIR`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from outrider_server.commands.engines import started_host
from outrider_server.config import DRAFT_WIDTH
from outrider_server.core.types import Accepted, Draw, FinishReason, Round, SamplingParams
from outrider_server.engine.options import EngineOptions, Quantization
from outrider_server.host.engine_host import EngineHost
from outrider_server.host.local import LocalDrafter, LocalVerifier
from outrider_server.speculation.decoder import decode_ahead, decode_synchronously
from outrider_server.speculation.turn import Turn

from .peer_lines import Answer
from .peer_process import serve_peer

SLOTS = 2


class LengthEnd:
    """A turn that ends at a number of tokens and nowhere else."""

    def __init__(self, tokens: int) -> None:
        self._left = tokens

    def accept(self, tokens: Sequence[int]) -> Accepted:
        """Keeps what still belongs to the turn."""
        kept = min(len(tokens), self._left)
        self._left -= kept
        return Accepted(kept, ("",) * kept, FinishReason.LENGTH if not self._left else None)


class NoLedger:
    """Records nothing."""

    async def record(self, rounds: Sequence[Round]) -> None:
        """Nothing to do."""


class ColocatedPair:
    """Both engines, each with its device thread, and the loop over local ports."""

    def __init__(self, target: EngineHost, draft: EngineHost) -> None:
        self._target = target
        self._draft = draft
        self._turns = 0

    @classmethod
    async def start(
        cls, target: Path, draft: Path, context: int, quantization: Quantization = "none"
    ) -> ColocatedPair:
        """Builds the engines with the settings of the services. Raises StartupError."""
        config = partial(
            EngineOptions,
            slots=SLOTS,
            rows=1,
            max_context_tokens=context,
            quantization=quantization,
        )
        # The engine started last says how many threads the kernels of the process have.
        drafting = await started_host(config(folder=draft, width=DRAFT_WIDTH, threads=1))
        return cls(await started_host(config(folder=target)), drafting)

    async def stop(self) -> None:
        """Ends both device threads."""
        await self._target.stop()
        await self._draft.stop()

    async def run(self, question: dict[str, Any]) -> dict[str, Any]:
        """One turn in a fresh session."""
        self._turns += 1
        name, prompt = f"turn-{self._turns}", tuple(question["prompt"])
        draw = Draw(
            SamplingParams(temperature=question["temperature"]), question["seed"], len(prompt)
        )
        window, synchronous = question["window"], question["loop"] == "synchronous"
        lead, burst = (max(1, window),) * 2 if synchronous else (2 * window, 1)
        decode = decode_synchronously if synchronous else decode_ahead
        tokens: list[int] = []
        started = time.perf_counter()
        verifier = await LocalVerifier.open(self._target, name, 1, prompt, draw)
        drafter = await LocalDrafter.open(self._draft, name, 1, prompt, draw, lead, burst)
        turn = Turn(
            prompt, verifier.known_length, window, LengthEnd(question["tokens"]), question["tokens"]
        )
        async for decided in decode(turn, verifier, drafter, NoLedger()):
            tokens += decided.tokens
        seconds = time.perf_counter() - started
        await drafter.close()
        await verifier.close()
        return {"tokens": tokens, "seconds": seconds}


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
            pair = runner.run(
                ColocatedPair.start(
                    arguments.target, arguments.draft, arguments.context, arguments.quantization
                )
            )
            return lambda question: runner.run(pair.run(question))

        serve_peer(build)


if __name__ == "__main__":
    main()
