"""A model in service: its device thread, and what may be asked of it from the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from ..core.description import ModelDescription, TokenizerFiles
from ..core.surroundings import CHANCE
from ..core.types import Draw, Step
from ..engine.engine import Engine, OpenedSlot
from ..engine.verifying import Verified, VerifyJob
from .admission import AdmissionQueue
from .device_thread import DeviceThread, tell
from .draft_turn import DraftTask, DraftTurn


class EngineHost:
    """The engine behind its device thread, for a servicer."""

    def __init__(
        self,
        device: DeviceThread,
        most_waiting: int = 0,
        stop_ranks: Callable[[], None] | None = None,
        chance: Random = CHANCE,
    ) -> None:
        """So many turns may wait for a slot. `stop_ranks` ends the other ranks, where some share the model,
        after the last step."""
        self.device = device
        self.queue = AdmissionQueue(most_waiting, device.engine.limits.slots, chance)
        self._stop_ranks = stop_ranks

    @classmethod
    async def started(
        cls,
        build: Callable[[], Engine],
        most_waiting: int = 0,
        stop_ranks: Callable[[], None] | None = None,
    ) -> EngineHost:
        """A host whose engine is built in its device thread. Raises what building raises."""
        device = DeviceThread(build)
        await device.start()
        return cls(device, most_waiting, stop_ranks)

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
        """Opens a session's slot for a turn, waiting for one. Raises what `Engine.open` raises."""

        def attempt() -> Awaitable[OpenedSlot]:
            return self._open_or_close(session_id, epoch, committed_length, draw)

        return await self.queue.enter(attempt, self.engine.table.holds(session_id))

    async def _open_or_close(
        self, session_id: str, epoch: int, committed_length: int, draw: Draw
    ) -> OpenedSlot:
        """Opens the slot; closes it again when the caller is gone by then."""
        opening = asyncio.ensure_future(
            self.device.call(lambda engine: engine.open(session_id, epoch, committed_length, draw))
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._close_unwanted)
            raise

    def _close_unwanted(self, opening: asyncio.Future[OpenedSlot]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            self.close(opening.result())

    def close(self, opened: OpenedSlot) -> None:
        """Ends a turn without waiting for it; the KV stays."""
        loop = asyncio.get_running_loop()

        def close() -> None:
            self.engine.table.close(opened.slot, opened.opening)
            held_seconds = self.engine.clock() - opened.opened_seconds
            tell(loop, self.queue.left, held_seconds)

        self.device.wake(close)

    async def verify(self, opened: OpenedSlot, step: Step) -> Verified:
        """Runs one step of an opened session. Raises OutriderError, with nothing decided."""
        job = VerifyJob(self.engine, opened.slot, opened.opening, step)
        self.device.submit(job)
        return await asyncio.wrap_future(job.outcome)

    def draft(self, opened: OpenedSlot, task: DraftTask) -> DraftTurn:
        """Begins to draft for an opened session."""
        return DraftTurn(self.device, opened, task)

    async def release(self, session_id: str, epoch: int) -> None:
        """Forgets a session. Raises StaleEpoch or TurnRunning."""
        await self.device.call(lambda engine: engine.release(session_id, epoch))
        self.queue.call_next()

    async def fork(self, session_id: str, fork_session_id: str, length: int, epoch: int) -> int:
        """Copies an idle session's KV to a new session; returns the copy's length."""
        return await self.device.call(
            lambda engine: engine.fork(session_id, fork_session_id, length, epoch)
        )
