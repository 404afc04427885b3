"""Engines from their configuration: those of the services, and those that the benchmark runs by themselves.

Imports torch, which the session service never does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from ..engine.options import EngineOptions

SPIN_COUNT = "20000"
"""How long a thread of OpenMP waits busily for its next share of a step: long enough between two layers, too
short to keep a core from the other services between two steps."""

# Read when torch is loaded, which the imports below do.
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

from ..core.errors import StartupError  # noqa: E402
from ..core.progress import Progress  # noqa: E402
from ..engine.engine import Engine  # noqa: E402
from ..engine.model.formats import check_format  # noqa: E402
from ..engine.records import Records, ToldOnce  # noqa: E402
from ..engine.starting import Start  # noqa: E402
from ..host.building import engine_builder, follow  # noqa: E402
from ..host.engine_host import EngineHost  # noqa: E402
from ..launching import Ranks, find_membership, gather  # noqa: E402
from ..user_folders import cache_folder  # noqa: E402

REFUSAL_SECONDS = 30.0
"""A rank that refuses waits so long for rank 0, which mostly has the same reason and names it alone."""


def kept_start(tell: Progress) -> Start:
    """A start that believes what earlier ones found on this machine, and leaves what it finds."""
    complain = ToldOnce()
    try:
        return Start(tell, Records(cache_folder(), complain=complain))
    except StartupError as error:
        complain(f"what this start measures is not kept: {error}")
        return Start(tell)


async def started_host(
    options: EngineOptions,
    start: Start | None = None,
    check: Callable[[Path], None] = check_format,
) -> EngineHost:
    """A host with its engine built and audited; `check` is `engine_builder`'s. Raises StartupError."""
    build: Callable[[], Engine] = engine_builder(options, start=start, check=check)
    return await EngineHost.started(build, options.queue)


async def started_leader(
    options: EngineOptions, ranks: Ranks, tell: Progress, check: Callable[[Path], None]
) -> EngineHost:
    """Rank 0's host of a model that ranks share. Where it fails, the other ranks end.

    Nothing is kept for a later start, as the ranks' machines may differ.
    """
    build: Callable[[], Engine] = engine_builder(
        options, ranks.group, start=Start(tell), check=check
    )
    try:
        return await EngineHost.started(build, options.queue, ranks.stop)
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
