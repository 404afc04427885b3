"""One model of a pair in a process of its own, as it is deployed: the time of its steps alone.

Runs as a process: `python -m outrider_bench.pair.model_peer --role target --model DIR`.
"""

from __future__ import annotations

import argparse
import time
from itertools import cycle
from pathlib import Path
from typing import Any

from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.engine import Engine
from outrider_server.engine.slots import Slot

from ..peer_process import serve_peer
from .engines import ROLES, built, options_of

TEMPERATURE = 0.7
"""A draw takes a little longer where there is noise."""
LEAST_STEPS = 3
"""Of each width, however short the time is."""
COLD_BYTES = 8 << 20
"""Written before each step: in service other processes ran meanwhile, and what caches hold is theirs."""


class TimedModel:
    """An engine, and what can be timed of it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._sessions = 0
        self._others = bytearray(COLD_BYTES)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Reads `text`, then times steps of each of `widths` in turn, over its second half, for `seconds`.

        Before each step it is idle for `idle_ms`, as between two rounds, and its caches are another's.
        Answers with milliseconds: `step_ms`, a list for each width, and `prefill_ms`, a token.
        """
        text, widths = question["text"], question["widths"]
        self._sessions += 1
        draw = Draw(SamplingParams(temperature=TEMPERATURE), self._sessions, 0)
        opened = self._engine.open(f"timed-{self._sessions}", 1, 0, draw)
        prefill_ms = self._read(opened.slot, text)
        step_ms: dict[int, list[float]] = {width: [] for width in widths}
        places = cycle(range(len(text) // 2, len(text) - max(widths)))
        until = time.perf_counter() + question["seconds"]
        while time.perf_counter() < until or len(step_ms[widths[-1]]) < LEAST_STEPS:
            for width in widths:
                start = next(places)
                time.sleep(question["idle_ms"] / 1000)
                self._others[:] = bytes(COLD_BYTES)
                began = time.perf_counter()
                self._engine.decide([(opened.slot, start, tuple(text[start : start + width]))])
                step_ms[width].append((time.perf_counter() - began) * 1000)
        self._engine.table.close(opened.slot, opened.opening)
        return {"step_ms": list(step_ms.values()), "prefill_ms": prefill_ms}

    def _read(self, slot: Slot, text: list[int]) -> float:
        """Reads all of the text; returns the milliseconds a token."""
        chunk, seconds = self._engine.limits.prefill_width, 0.0
        for start in range(0, len(text), chunk):
            seconds += self._engine.prefill(slot, start, tuple(text[start : start + chunk]))
        return 1000 * seconds / len(text)


def main() -> None:
    """Answers on the standard streams until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--role", choices=ROLES, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--context", type=int, required=True)
    arguments = parser.parse_args()
    options = options_of(arguments.role, arguments.model, arguments.context)
    serve_peer(lambda: TimedModel(built(options)).answer)


if __name__ == "__main__":
    main()
