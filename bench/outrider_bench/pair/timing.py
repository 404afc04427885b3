"""Times a pair on this machine: each model in a process of its own, alone and beside the other.

What is outside the models does not depend on them, and is timed on services of the smallest bundled model.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import outrider
from outrider_server.models import DRAFT_FOLDER
from outrider_server.pacing.window import USUAL_WINDOW

from ..fleet import FleetOptions, OutriderSystem, running_fleet, warm_up
from ..peer_process import PeerProcess
from ..prompts import Prompts
from ..spread import spread
from ..tasks import Task
from .costs import ModelTimes, PairTimes
from .model_peer import TEMPERATURE

SECONDS = 4.0
"""For the steps of both models, each time."""
WIDTHS = {"target": tuple(range(1, USUAL_WINDOW + 2)), "draft": (1,)}
TURNS, TURN_TOKENS, TURN_CONTEXT = 5, 200, 512
"""Turns that time what is outside the models."""


async def timed_pair(
    target: Path, draft: Path, context: int, text: Sequence[int], seconds: float
) -> PairTimes:
    """Times both models over a text, three times for so many seconds. Raises StartupError."""
    outside_ms, way_ms = await outside_models()
    async with AsyncExitStack() as stack:
        peers = {}
        for role, model in (("target", target), ("draft", draft)):
            arguments = [f"--role={role}", f"--model={model}", f"--context={context}"]
            peers[role] = await PeerProcess.start(
                f"the {role}", f"{__package__}.model_peer", arguments
            )
            stack.push_async_callback(peers[role].stop)

        async def ask(role: str, idle_ms: float) -> ModelTimes:
            question = {
                "text": list(text),
                "widths": WIDTHS[role],
                "seconds": seconds,
                "idle_ms": idle_ms,
            }
            return _times(await peers[role].ask(question))

        alone = [await ask(role, outside_ms) for role in peers]
        beside = await asyncio.gather(*(ask(role, 0.0) for role in peers))
        return PairTimes(alone[0], beside[0], alone[1], beside[1], outside_ms, way_ms)


async def outside_models() -> tuple[float, float]:
    """(milliseconds of a round outside both models, those of a message to a model and back), medians.

    Raises StartupError.
    """
    options = FleetOptions(DRAFT_FOLDER, None, context=TURN_CONTEXT)
    prompts = Prompts.of(DRAFT_FOLDER)
    async with running_fleet(options) as fleet, outrider.AsyncClient(fleet.address) as client:
        alone = OutriderSystem("off", client, "off")
        outside, ways = [], []
        for seed in range(TURNS):
            task = Task("outside", prompts.take()[1], TURN_TOKENS, TEMPERATURE, seed)
            if not seed:
                await warm_up(alone, task)
            turn = (await alone.run(task)).details
            outside.append((turn["duration_ms"] - turn["target_ms"]) / turn["rounds"])
            ways.append((turn["verify_ms"] - turn["target_ms"]) / turn["rounds"])
    return statistics.median(outside), statistics.median(ways)


def _times(answer: dict[str, Any]) -> ModelTimes:
    quartiles = tuple(spread(each).low for each in answer["step_ms"])
    return ModelTimes(quartiles, answer["prefill_ms"])
