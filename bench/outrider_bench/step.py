"""The suite `step`: the engine alone against what memory allows, and its cache against the formula.

A step reads every weight once; no step can be faster than that read at the bandwidth measured with as many
threads. The share of this roofline is the quotient.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from .decode import Report
from .models import Models
from .peer_process import PeerProcess
from .prompts import Prompts
from .results import Line, SuiteResult
from .settings import BenchSettings
from .spread import Spread, spread

SESSIONS = (1, 2, 4, 8)
PROPOSED = (0, 7)
PROMPT = 128
LONG_PROMPT = 513
STEPS_PER_REPEAT = 8
KEY_BLOCK = 128
"""Of the engine's cache; here by itself, because the bench checks the formula and not the code."""


async def run_step(settings: BenchSettings, models: Models, report: Report) -> SuiteResult:
    """Measures single steps of target and draft. Raises StartupError."""
    result = SuiteResult("step")
    prompts = Prompts.of(models.target)
    report("step: building the engines")
    context = models.context_for(LONG_PROMPT)
    peer = await PeerProcess.start(
        "engine",
        f"{__package__}.step_peer",
        [
            f"--target={models.target}",
            f"--draft={models.draft}",
            f"--context={context}",
            f"--quantization={settings.peers.weights.quantization}",
        ],
    )
    try:
        facts = await peer.ask({"what": "facts"})
        bandwidth = await peer.ask({"what": "bandwidth", "threads": facts["threads"]})
        steps = {
            (sessions, proposed): await _verify(peer, prompts, sessions, proposed, settings.repeats)
            for sessions in SESSIONS
            for proposed in PROPOSED
        }
        prefill, draft = [], []
        for _ in range(settings.repeats):
            answer = await peer.ask(
                {"what": "prefill", "prompt": prompts.take_long(LONG_PROMPT)[1]}
            )
            prefill.append(answer["ms"] / answer["tokens"])
            answer = await peer.ask({"what": "draft", "prompt": prompts.take_long(PROMPT)[1]})
            draft.append(answer["ms"])
    finally:
        await peer.stop()
    bytes_per_second = bandwidth["bytes_per_second"]
    result.lines = step_lines(facts, bytes_per_second, steps)
    result.lines += [
        Line(
            f"prefill, {facts['prefill_width']} tokens a chunk",
            spread(prefill),
            "ms/token",
            digits=3,
        ),
        Line("draft, one guess", spread(draft), "ms"),
        *cache_lines(facts),
    ]
    result.series = {
        "facts": facts,
        "bytes_per_second": bytes_per_second,
        "steps": [
            {"sessions": sessions, "proposed": proposed, "ms": entry["ms"]}
            for (sessions, proposed), entry in steps.items()
        ],
    }
    return result


async def _verify(
    peer: PeerProcess, prompts: Prompts, sessions: int, proposed: int, repeats: int
) -> dict[str, Any]:
    """Milliseconds of every step, over several prompts, and how many rows were in one."""
    times: list[float] = []
    rows: list[float] = []
    for _ in range(repeats):
        answer = await peer.ask(
            {
                "what": "verify",
                "sessions": sessions,
                "proposed": proposed,
                "prompt": prompts.take_long(PROMPT)[1],
                "steps": STEPS_PER_REPEAT,
            }
        )
        times += answer["ms"]
        rows.append(answer["rows_per_step"])
    return {"ms": times, "rows_per_step": statistics.fmean(rows)}


def step_lines(
    facts: Mapping[str, Any],
    bytes_per_second: float,
    steps: Mapping[tuple[int, int], Mapping[str, Any]],
) -> list[Line]:
    """Each step's time and its share of the roofline."""
    floor_ms = 1000 * facts["parameter_bytes"] / bytes_per_second
    threads = facts["threads"]
    lines = [
        Line("memory bandwidth, read", bytes_per_second / 1e9, "GB/s", f"{threads} threads", 1),
        Line("roofline of a step: every weight once", floor_ms, "ms"),
    ]
    for (sessions, proposed), entry in steps.items():
        times: Spread = spread(entry["ms"])
        note = f"{floor_ms / times.median:.0%} of the roofline"
        if entry["rows_per_step"] < sessions:
            note += f"; {entry['rows_per_step']:.1f} rows a step"
        what = f"verify, {sessions} sessions, {proposed + 1} tokens each"
        lines.append(Line(what, times, "ms", note))
    return lines


def cache_lines(facts: Mapping[str, Any]) -> list[Line]:
    """The cache's bytes beside the formula of docs/operations.md.

    2 x layers x key-value heads x head size x bytes a position; times the slots and one for padding; times
    the longest context and a chunk, in whole blocks of keys.
    """
    slots = facts["cache_slots"] + 1
    blocks = math.ceil((facts["cache_positions"] + facts["cache_headroom"]) / KEY_BLOCK)
    formula = facts["position_bytes"] * slots * blocks * KEY_BLOCK
    kept = facts["position_bytes"] * facts["cache_slots"] * facts["cache_positions"]
    return [
        Line("cache, allocated", facts["cache_bytes"] / 2**20, "MiB"),
        Line(
            "cache, by the formula",
            formula / 2**20,
            "MiB",
            f"{slots} x {blocks * KEY_BLOCK} positions of {facts['position_bytes']} bytes",
        ),
        Line("cache, allocated / formula", facts["cache_bytes"] / formula, "x", digits=3),
        Line(
            "cache, for sessions alone",
            kept / 2**20,
            "MiB",
            f"{facts['cache_slots']} slots of {facts['cache_positions']} positions",
        ),
    ]
