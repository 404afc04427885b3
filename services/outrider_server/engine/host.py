"""A model in service: its device thread, and what may be asked of it from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..speculation.description import ModelDescription, TokenizerFiles
from ..speculation.types import Draw
from .engine import Engine, OpenedSlot
from .worker import DeviceThread


class EngineHost:
    """The engine behind its device thread, for a servicer."""

    def __init__(self, device: DeviceThread, stop_ranks: Callable[[], None] | None = None) -> None:
        """`stop_ranks` ends the other ranks, where some share the model, after the last step."""
        self.device = device
        self._stop_ranks = stop_ranks

    async def stop(self) -> None:
        """Ends the device thread after the step that runs, then the other ranks."""
        await self.device.stop()
        if self._stop_ranks is not None:
            await asyncio.to_thread(self._stop_ranks)

    @property
    def engine(self) -> Engine:
        """The engine, to be read only."""
        return self.device.engine

    def describe(self) -> ModelDescription:
        """The model."""
        return self.engine.describe()

    def tokenizer(self) -> TokenizerFiles:
        """Its tokenizer files."""
        return self.engine.loaded.tokenizer

    async def open(
        self, session_id: str, epoch: int, committed_length: int, draw: Draw
    ) -> OpenedSlot:
        """Opens a session's slot for a turn. Raises what `Engine.open` raises."""
        return await self.device.call(
            lambda engine: engine.open(session_id, epoch, committed_length, draw)
        )

    def close(self, opened: OpenedSlot) -> None:
        """Ends a turn without waiting for it; the KV stays."""
        self.device.wake(lambda: self.engine.table.close(opened.slot, opened.lease))

    async def release(self, session_id: str, epoch: int) -> None:
        """Forgets a session. Raises StaleEpoch or TurnRunning."""
        await self.device.call(lambda engine: engine.table.release(session_id, epoch))
