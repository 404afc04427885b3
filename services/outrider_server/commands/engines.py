"""Engines from their configuration: those of the services, and those that the benchmark runs by themselves.

Imports torch, which the session service never does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from ..config import EngineConfig

SPIN_COUNT = "20000"
"""How long a thread of OpenMP waits busily for its next share of a step: long enough between two layers, too
short to keep a core from the other services between two steps."""

# Read when torch is loaded, which the imports below do.
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

from ..core.errors import StartupError  # noqa: E402
from ..engine.build import engine_builder, follow  # noqa: E402
from ..engine.ranks.ranks import Group  # noqa: E402
from ..engine.worker import DeviceThread  # noqa: E402
from ..launching import Ranks, find_place, gather  # noqa: E402

REFUSAL_SECONDS = 30.0
"""A rank that refuses waits so long for rank 0, which mostly has the same reason and names it alone."""


async def started_engine(config: EngineConfig) -> DeviceThread:
    """A device thread with its engine built, compiled and audited. Raises StartupError."""
    device = DeviceThread(_builder(config))
    await device.start()
    return device


async def started_leader(config: EngineConfig, ranks: Ranks) -> DeviceThread:
    """The same over a model that ranks share, for rank 0. Where it fails, the other ranks end."""
    device = DeviceThread(_builder(config, ranks.group))
    try:
        await device.start()
    except BaseException:
        ranks.kill()
        raise
    return device


def gathered(config: EngineConfig) -> Ranks | None:
    """The ranks of this process's model, linked; None where it runs alone. Raises StartupError."""
    if config.tensor_parallel == 1:
        find_place(1, os.environ)
        return None
    return gather(config.folder, config.tensor_parallel, config.device)


def follow_leader(config: EngineConfig, ranks: Ranks) -> None:
    """Any other rank: loads its share and runs what rank 0 runs until told to stop. Raises StartupError."""
    try:
        _builder(config, ranks.group, make=follow)()
    except StartupError:
        time.sleep(REFUSAL_SECONDS)
        raise


def _builder(config: EngineConfig, group: Group | None = None, **make: Any) -> Callable[[], Any]:
    return engine_builder(
        config.folder,
        dtype=config.dtype,
        device=config.device,
        slots=config.slots,
        row_buckets=config.row_buckets,
        width=config.width,
        prefill_width=config.prefill_width,
        max_context_tokens=config.max_context_tokens,
        compile_mode=config.compile,
        reproducible=config.reproducible,
        threads=config.thread_count,
        quantization=config.quantization,
        attention=config.attention,
        # The other ranks' shares would have to move with rank 0's.
        park_bytes=config.park_bytes if group is None else 0,
        group=group,
        **make,
    )
