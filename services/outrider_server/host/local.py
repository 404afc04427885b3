"""Local ports: the decode loop over models in this process, without any wire.

The co-located system: what the services do, minus gRPC. Tests and the baseline benchmark use it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from ..core.costs import GuessCost
from ..core.errors import OutriderError
from ..core.types import Draw, Proposal, Step, Verdict, usable_length
from ..engine.engine import OpenedSlot
from ..speculation.guesses import Guesses
from .draft_turn import DraftTask, DraftTurn
from .engine_host import EngineHost

log = logging.getLogger("outrider.engine")


class LocalVerifier:
    """Verifier over an engine in this process. Open one for each turn with `open`."""

    def __init__(self, host: EngineHost, opened: OpenedSlot, known_length: int) -> None:
        self._host = host
        self._opened = opened
        self.known_length = known_length

    @classmethod
    async def open(
        cls, host: EngineHost, session_id: str, epoch: int, tokens: Sequence[int], draw: Draw
    ) -> LocalVerifier:
        """Opens the session's slot. Raises what `EngineHost.open` raises."""
        opened = await host.open(session_id, epoch, len(tokens), draw)
        return cls(host, opened, usable_length(opened.length, opened.digest, tokens))

    async def verify(self, step: Step) -> Verdict:
        """Runs one step on the device thread."""
        return (await self._host.verify(self._opened, step)).verdict

    async def close(self) -> None:
        """Ends the turn; the KV stays."""
        self._host.close(self._opened)


class LocalDrafter:
    """Drafter over an engine in this process. Open one for each turn with `open`."""

    def __init__(
        self, host: EngineHost, opened: OpenedSlot, tokens: Sequence[int], lead: int, burst: int
    ) -> None:
        self._host = host
        self._opened = opened
        self._drafting: DraftTurn = host.draft(
            opened, DraftTask(len(tokens), len(tokens), lead, burst)
        )
        self._guesses = Guesses(tokens)
        self._arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._failed = False
        self._pace: tuple[int, int] | None = None
        self._listening: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        host: EngineHost,
        session_id: str,
        epoch: int,
        tokens: Sequence[int],
        draw: Draw,
        lead: int,
        burst: int = 1,
    ) -> LocalDrafter:
        """Opens the session's slot and starts to draft. Raises what `EngineHost.open` raises."""
        opened = await host.open(session_id, epoch, len(tokens), draw)
        drafter = cls(host, opened, tokens, lead, burst)
        known = usable_length(opened.length, opened.digest, tokens)
        drafter._drafting.commit(known, tokens[known:])
        drafter._listening = asyncio.create_task(drafter._listen())
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

    async def close(self) -> None:
        """Ends drafting; the KV stays."""
        if self._listening is not None:
            self._listening.cancel()
        self._drafting.close()
        self._host.close(self._opened)

    def _tell(self, start_position: int, tokens: Sequence[int]) -> None:
        lead, burst = self._pace or (None, None)
        self._drafting.commit(start_position, tokens, lead, burst)

    async def _listen(self) -> None:
        try:
            while (guessed := await self._drafting.take()) is not None:
                proposal = guessed.proposal
                self._guesses.receive(guessed.branch, proposal.start_position, proposal.tokens)
                self._arrived.set()
        except OutriderError as error:
            log.warning("the draft ended (%s); the turn goes on without", error)
            self._failed = True
            self._arrived.set()
