"""Engines from their configuration: those of the services, and those that the benchmark runs by themselves.

Imports torch, which the session service never does.
"""

from __future__ import annotations

import os
import time

from ..engine.options import EngineOptions

SPIN_COUNT = "20000"
"""How long a thread of OpenMP waits busily for its next share of a step: long enough between two layers, too
short to keep a core from the other services between two steps."""

# Read when torch is loaded, which the imports below do.
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

from ..core.errors import StartupError  # noqa: E402
from ..host.building import engine_builder, follow  # noqa: E402
from ..host.engine_host import EngineHost  # noqa: E402
from ..launching import Ranks, find_membership, gather  # noqa: E402

REFUSAL_SECONDS = 30.0
"""A rank that refuses waits so long for rank 0, which mostly has the same reason and names it alone."""


async def started_host(options: EngineOptions) -> EngineHost:
    """A host with its engine built, compiled and audited. Raises StartupError."""
    return await EngineHost.started(engine_builder(options), options.queue)


async def started_leader(options: EngineOptions, ranks: Ranks) -> EngineHost:
    """Rank 0's host of a model that ranks share. Where it fails, the other ranks end."""
    try:
        return await EngineHost.started(
            engine_builder(options, ranks.group), options.queue, ranks.stop
        )
    except BaseException:
        ranks.kill()
        raise


def gathered(options: EngineOptions) -> Ranks | None:
    """The ranks of this process's model, linked; None where it runs alone. Raises StartupError."""
    if options.tensor_parallel == 1:
        find_membership(1, os.environ)
        return None
    return gather(options.folder, options.tensor_parallel, options.device)


def follow_leader(options: EngineOptions, ranks: Ranks) -> None:
    """Any other rank: loads its share and runs what rank 0 runs until told to stop. Raises StartupError."""
    try:
        engine_builder(options, ranks.group, follow)()
    except StartupError:
        time.sleep(REFUSAL_SECONDS)
        raise
