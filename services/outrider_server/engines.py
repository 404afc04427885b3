"""Engines from their configuration: those of the services, and those that the benchmark runs by themselves.

Imports torch, which the session service never does.
"""

from __future__ import annotations

import os

from .config import EngineConfig

SPIN_COUNT = "20000"
"""How long a thread of OpenMP waits busily for its next share of a step: long enough between two layers, too
short to keep a core from the other services between two steps."""

# Read when torch is loaded, which the imports below do.
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)

from .engine.build import engine_builder  # noqa: E402
from .engine.worker import DeviceThread  # noqa: E402


async def started_engine(config: EngineConfig) -> DeviceThread:
    """A device thread with its engine built, compiled and audited. Raises StartupError."""
    device = DeviceThread(
        engine_builder(
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
        )
    )
    await device.start()
    return device
