"""Local ports: the decode loop over models in this process, without any wire.

The co-located system: what the services do, minus gRPC. Tests and the baseline benchmark use it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..core.costs import GuessCost
from ..core.errors import OutriderError
from ..core.types import Draw, Proposal, Step, Verdict, usable_length
from ..speculation.guesses import Guesses
from .drafting import DraftJob
from .engine import Engine, OpenedSlot
from .verifying import VerifyJob
from .worker import DeviceThread


class LocalVerifier:
    """Verifier over an engine in this process. Open one for each turn with `open`."""

    def __init__(self, device: DeviceThread, opened: OpenedSlot, known_length: int) -> None:
        self._device = device
        self._opened = opened
        self.known_length = known_length

    @classmethod
    async def open(
        cls, device: DeviceThread, session_id: str, epoch: int, tokens: Sequence[int], draw: Draw
    ) -> LocalVerifier:
        """Opens the session's slot. Raises what `Engine.open` raises."""
        opened = await device.call(lambda engine: engine.open(session_id, epoch, len(tokens), draw))
        return cls(device, opened, usable_length(opened.length, opened.digest, tokens))

    async def verify(self, step: Step) -> Verdict:
        """Runs one step on the device thread."""
        job = VerifyJob(self._device.engine, self._opened.slot, self._opened.lease, step)
        self._device.submit(job)
        return (await asyncio.wrap_future(job.outcome)).verdict

    async def close(self) -> None:
        """Ends the turn; the KV stays."""
        opened = self._opened
        await self._device.call(lambda engine: engine.table.close(opened.slot, opened.lease))


class LocalDrafter:
    """Drafter over an engine in this process. Open one for each turn with `open`."""

    def __init__(self, device: DeviceThread, opened: OpenedSlot, tokens: Sequence[int]) -> None:
        self._device = device
        self._opened = opened
        self._guesses = Guesses(tokens)
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._job: DraftJob | None = None
        self._failed = False
        self._pace: tuple[int, int] | None = None

    @classmethod
    async def open(
        cls,
        device: DeviceThread,
        session_id: str,
        epoch: int,
        tokens: Sequence[int],
        draw: Draw,
        lead: int,
        burst: int = 1,
    ) -> LocalDrafter:
        """Opens the session's slot and starts to draft. Raises what `Engine.open` raises."""
        opened = await device.call(lambda engine: engine.open(session_id, epoch, len(tokens), draw))
        drafter = cls(device, opened, tokens)
        known = usable_length(opened.length, opened.digest, tokens)

        job = DraftJob(
            device.engine,
            opened.slot,
            opened.lease,
            len(tokens),
            lead,
            drafter._emit,
            drafter._fail,
            burst,
        )
        drafter._job = job
        missing = tuple(tokens[known:])
        device.wake(lambda: job.commit(known, missing))
        device.submit(job)
        return drafter

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        """Waits for `minimum` guesses unless the draft has failed."""
        while len(self._guesses) < minimum and not self._failed:
            self._arrived.clear()
            await self._arrived.wait()
        return Proposal(position, self._guesses.peek(maximum))

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Notes decided tokens here and, once the caller has set the pace, on the device thread."""
        self._guesses.commit(start_position, tokens)
        self._loop.call_soon(self._tell, start_position, tuple(tokens))

    def pace(self, lead: int, burst: int, _: bool = False) -> None:
        """Sets how far to guess ahead and how many guesses to gather."""
        self._pace = lead, burst

    def spent(self) -> tuple[GuessCost, ...]:
        """Nothing: what guesses cost is not measured here."""
        return ()

    def compared(self) -> tuple[int, int]:
        """(guesses compared with decided tokens since the last call, those that agreed)."""
        return self._guesses.compared()

    def _tell(self, start_position: int, tokens: Sequence[int]) -> None:
        job, pace = self._job, self._pace or (None, None)
        if job is not None:
            self._device.wake(lambda: job.commit(start_position, tokens, *pace))

    async def close(self) -> None:
        """Ends drafting; the KV stays."""
        job, opened = self._job, self._opened

        def end(engine: Engine) -> None:
            if job is not None:
                job.end()
            engine.table.close(opened.slot, opened.lease)

        await self._device.call(end)

    def _emit(self, branch: int, proposal: Proposal, _: float) -> None:
        self._loop.call_soon_threadsafe(self._receive, branch, proposal)

    def _receive(self, branch: int, proposal: Proposal) -> None:
        self._guesses.receive(branch, proposal.start_position, proposal.tokens)
        self._arrived.set()

    def _fail(self, _: OutriderError) -> None:
        def note() -> None:
            self._failed = True
            self._arrived.set()

        self._loop.call_soon_threadsafe(note)
