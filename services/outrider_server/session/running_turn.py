"""One turn while it runs: opened, decoded, recorded, told, moved where its target fails, and left.

Joins the parts around the decode loop: the session's tokens from the ledger, the target, the drafters, the
end of the turn, the telemetry. The loop itself is `speculation/decoder.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from ..core.errors import Exhausted, LedgerUnavailable, OutriderError, TryLater, Unavailable
from ..core.surroundings import Clock
from ..core.types import FinishReason, LoopMode, Round
from ..rpc.telemetry import TURN_STATE, TurnMetrics
from ..speculation.decoder import decode_ahead, decode_synchronously
from ..speculation.lifecycle import Lifecycle, TurnEvent, TurnState
from .drafting import Drafting
from .ledger.ledger import Ledger
from .ledger.patience import patiently
from .ledger.recorder import LedgerRecorder
from .live import LiveSessions
from .open_turn import EndedTurn, OpenTurn
from .opening import TurnOpener
from .peers.draft_link import RemoteDrafter
from .peers.target_stream import TurnSuspended
from .peers.targets import Targets
from .reader_watch import ReaderWatch
from .tally import Tally, TurnStarted, TurnSummary
from .trace import TurnTrace

MOVE_DELAYS_SECONDS = (0.0, 0.2, 0.8)
"""Before each attempt to go on with a turn whose target could not be reached."""

Told = TurnStarted | Round | TurnSummary


@dataclass(frozen=True, slots=True)
class TurnParts:
    """What the turns of a process share."""

    opener: TurnOpener
    drafting: Drafting
    targets: Targets
    ledger: Ledger
    live: LiveSessions
    metrics: TurnMetrics
    max_context_tokens: int
    clock: Clock
    """What rounds cost is measured with it."""


class RunningTurn:
    """One turn for one reader. Owns what the turn holds: its claim, its line to the target, its draft.

    Entering it opens the turn, which may raise OutriderError. Iterating it gives `TurnStarted`, the rounds as
    they are recorded, and the summary; what it gave before it raises OutriderError stands. Leaving it, at
    whatever point, gives everything back; a turn that has not ended is cancelled, or failed.
    """

    def __init__(
        self,
        open_turn: Callable[[], Awaitable[OpenTurn | EndedTurn]],
        parts: TurnParts,
        trace: TurnTrace,
    ) -> None:
        self._open_turn = open_turn
        self._parts = parts
        self._trace = trace
        self._life = Lifecycle()
        self._tally = Tally(parts.metrics, parts.clock)
        self._watch = ReaderWatch()
        self._held = ExitStack()
        self._opened: OpenTurn | EndedTurn | None = None
        self._drafter: RemoteDrafter | None = None
        self._trouble = ""
        self._events = self._tell()

    async def __aenter__(self) -> Self:
        try:
            opened = await self._open_turn()
        except BaseException as error:
            self._leave(error)
            raise
        self._life.move(TurnEvent.PROMPT_RECORDED)
        self._tally.tokens_before = opened.generated
        self._hold(opened)
        return self

    async def __aexit__(
        self,
        _: type[BaseException] | None,
        error: BaseException | None,
        __: TracebackType | None,
    ) -> None:
        try:
            await self._events.aclose()
        finally:
            self._leave(error)

    def __aiter__(self) -> AsyncGenerator[Told]:
        return self._events

    async def _tell(self) -> AsyncGenerator[Told]:
        opened = self._opened
        assert opened is not None, "it is entered before it is iterated"
        started = TurnStarted.of(opened.record, opened.request.seed)
        with self._watch.waiting():
            yield started
        moves = iter(MOVE_DELAYS_SECONDS)
        while True:
            if opened.told is not None:
                with self._watch.waiting():
                    yield opened.told
            if isinstance(opened, EndedTurn):
                yield self._tally.summary(await self._ended(opened), started, "")
                return
            try:
                async with aclosing(self._decoding(opened)) as rounds:
                    async for decided in rounds:
                        await self._count(opened, decided)
                        with self._watch.waiting():
                            yield decided
            except Unavailable as error:
                opened = await self._moved(opened, error, moves)
                continue
            if self._drafter is not None:
                self._trouble = self._trouble or self._drafter.trouble
            self._held.close()
            assert decided.finish_reason is not None, "the loop ends with the turn"
            yield self._tally.summary(decided.finish_reason, started, self._trouble)
            return

    def _hold(self, opened: OpenTurn | EndedTurn) -> None:
        """What has been opened is the turn's until it moves or is left."""
        self._opened = opened
        self._watch.holds()
        if isinstance(opened, OpenTurn):
            self._held.callback(opened.verifier.close)
            self._watch.holds(opened.verifier.suspend, self._held.close)

    def _decoding(self, opened: OpenTurn) -> AsyncGenerator[Round]:
        """The rounds, by the loop that the turn asks for."""
        request, drafting = opened.request, self._parts.drafting
        drafting.crowd.join()
        self._held.callback(drafting.crowd.leave)
        with self._trace.current():
            drafted = drafting.open(opened)
        self._drafter, self._trouble = drafted.model, drafted.trouble
        if self._drafter is not None:
            self._held.callback(drafting.close, self._drafter)
        self._watch.holds(opened.verifier.suspend, self._held.close)
        recorder = LedgerRecorder(self._parts.ledger, request.session_id, opened.epoch)
        turn = opened.turn(drafting.window(request), self._parts.max_context_tokens)
        plain = drafting.mode(request) is LoopMode.SYNCHRONOUS
        decode = decode_synchronously if plain else decode_ahead
        return decode(
            turn, opened.verifier, drafted.drafter, recorder, drafted.meter, self._parts.clock
        )

    async def _count(self, opened: OpenTurn, decided: Round) -> None:
        """A round is recorded, and is told next: a turn that moves goes on after what was told."""
        if decided.finish_reason is None:
            self._life.move(TurnEvent.ROUND_RECORDED)
        else:
            await self._finish(opened, decided.finish_reason)
            self._life.move(TurnEvent.LAST_ROUND_RECORDED)
        self._tally.add(decided)
        self._trace.round(decided)

    async def _ended(self, opened: EndedTurn) -> FinishReason:
        """Why it had ended, which the ledger knows from now on."""
        if opened.record.finish_reason is None:
            await self._finish(opened, opened.finish_reason)
        else:
            await self._parts.live.give_back(opened.claim)
        self._life.move(TurnEvent.LAST_ROUND_RECORDED)
        return opened.finish_reason

    async def _moved(
        self, opened: OpenTurn, error: Unavailable, moves: Iterator[float]
    ) -> OpenTurn | EndedTurn:
        """The turn opened anew after its target failed, on another where there is one, or once its reader
        reads again. Raises what is no failure of a target, and why not when tried enough."""
        if isinstance(error, LedgerUnavailable):
            raise error
        self._held.close()
        session_id = opened.record.session_id
        if not isinstance(error, TurnSuspended):
            self._parts.targets.failed(session_id, error)
        epoch = await self._parts.opener.fence(session_id, opened.epoch)
        self._opened = opened = replace(opened, epoch=epoch)
        last: TryLater = error
        for delay in MOVE_DELAYS_SECONDS if isinstance(error, TurnSuspended) else moves:
            await asyncio.sleep(delay)
            try:
                again = await self._reopened(opened)
            except TryLater as later:
                last = later
                continue
            self._hold(again)
            if again.told is not None:
                self._tally.tokens_before += len(again.told.tokens)
            return again
        raise last

    async def _reopened(self, opened: OpenTurn) -> OpenTurn | EndedTurn:
        return await self._parts.opener.reopen(
            opened.record.session_id,
            opened.record.request_id,
            opened.claim,
            opened.epoch,
            self._tally.tokens_before + self._tally.tokens,
            self._trace,
        )

    async def _finish(self, opened: OpenTurn | EndedTurn, finish_reason: FinishReason) -> None:
        record = opened.record
        await patiently(
            lambda: self._parts.ledger.finish_turn(
                record.session_id, opened.epoch, record.turn_index, finish_reason
            )
        )

    def _leave(self, error: BaseException | None) -> None:
        """Gives back what the turn holds, and says how it ended."""
        self._held.close()
        live, opened, life = self._parts.live, self._opened, self._life
        is_gone = error is None or isinstance(error, (asyncio.CancelledError, GeneratorExit))
        if error is not None and opened is not None and not is_gone:
            live.lost(opened.record.session_id, opened.epoch, error)
        if not life.ended:
            life.move(TurnEvent.CALLER_GONE if is_gone else TurnEvent.ERROR)
        if opened is None and isinstance(error, Exhausted):
            self._parts.metrics.refused.add(1)
        else:
            self._parts.metrics.turns.add(1, {TURN_STATE: life.state.value})
        self._trace.end(self._tally.tokens, life.state)
        if opened is not None and life.state is not TurnState.FINISHED:
            live.end_in_background(self._abandon(opened, life.state))
        elif opened is not None:
            live.free(opened.claim)

    async def _abandon(self, opened: OpenTurn | EndedTurn, state: TurnState) -> None:
        """Writes the end of a turn that nobody listens to any more, then frees the session."""
        reason = FinishReason.CANCELLED if state is TurnState.CANCELLED else FinishReason.FAILED
        if isinstance(opened, EndedTurn):
            reason = opened.finish_reason  # who leaves while it is told again changes nothing
        try:
            # Another owner of the session, or no ledger, leaves the turn without a recorded end.
            with contextlib.suppress(OutriderError):
                await self._finish(opened, reason)
        finally:
            self._parts.live.free(opened.claim)
