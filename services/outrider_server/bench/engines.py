"""Engines in this process, with the settings that the services give theirs."""

from __future__ import annotations

from ..config import EngineConfig
from ..engine.build import engine_builder
from ..engine.worker import DeviceThread


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
        )
    )
    await device.start()
    return device
