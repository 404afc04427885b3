"""Runs turns: from a checked request to recorded rounds and a summary.

Joins the parts around the decode loop: the session's tokens from the ledger, the target, the drafters, the
end of the turn, the telemetry. The loop itself is `speculation/decoder.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace

from ..rpc.telemetry import TURN_STATE, TurnMetrics
from ..speculation.decoder import decode_ahead, decode_synchronously
from ..speculation.errors import (
    Exhausted,
    LedgerUnavailable,
    OutriderError,
    TryLater,
    Unavailable,
)
from ..speculation.lifecycle import Lifecycle, TurnEvent, TurnState
from ..speculation.types import FinishReason, LoopMode, Round
from .draft_link import RemoteDrafter
from .drafting import Drafting, LoopSettings
from .drafts import Drafts
from .ledger import Ledger
from .live import LiveSessions
from .model import ServedModel
from .open_turn import OpenTurn
from .opening import TurnOpener
from .patience import patiently
from .reader_watch import ReaderWatch
from .reading import Reading
from .recorder import LedgerRecorder
from .requests import TurnRequest
from .tally import Tally, TurnStarted, TurnSummary
from .target_stream import TurnParked
from .targets import Targets
from .trace import TurnTrace

MOVE_DELAYS_SECONDS = (0.0, 0.2, 0.8)
"""Before each attempt to go on with a turn whose target could not be reached."""


class TurnRunner:
    """Runs the turns of all sessions of this process."""

    def __init__(
        self,
        model: ServedModel,
        target: Targets,
        draft: Drafts | None,
        ledger: Ledger,
        live: LiveSessions,
        settings: LoopSettings,
        reading: Reading,
    ) -> None:
        self._model = model
        self._drafting = Drafting(model, draft, settings)
        self._ledger = ledger
        self._live = live
        self._metrics = TurnMetrics()
        self._target = target
        self.opener = TurnOpener(model, target, ledger, live, reading)

    def forget(self, session_id: str) -> None:
        """Drops what is kept of a session that is deleted."""
        self._drafting.forget(session_id)

    def check_room(self, session_id: str) -> None:
        """Raises Exhausted where no target would take a turn of the session: before anything is read."""
        try:
            self._target.check_room(session_id)
        except Exhausted:
            self._metrics.refused.add(1)
            raise

    async def run(
        self, request: TurnRequest, trace: TurnTrace
    ) -> AsyncGenerator[TurnStarted | Round | TurnSummary, None]:
        """Begins a turn. Yields `TurnStarted`, the rounds as they are recorded, and the summary.

        Raises OutriderError; what was yielded before stands. Closing the iterator cancels the turn.
        """
        claim = self._live.claim(request.session_id)

        async def begin() -> OpenTurn:
            try:
                return await self.opener.begin(request, claim, trace)
            except BaseException:
                self._live.free(claim)
                raise

        async with aclosing(self._tell(begin, trace)) as events:
            async for event in events:
                yield event

    async def attach(
        self, session_id: str, request_id: str, from_index: int, trace: TurnTrace
    ) -> AsyncGenerator[TurnStarted | Round | TurnSummary, None]:
        """Goes on with a turn that was begun, here or elsewhere, and yields the same from an index on.

        Whoever ran it until now loses the session. Raises as `TurnOpener.attach`.
        """

        async def reopen() -> OpenTurn:
            return await self.opener.attach(session_id, request_id, from_index, trace)

        async with aclosing(self._tell(reopen, trace)) as events:
            async for event in events:
                yield event

    async def _tell(
        self, open_turn: Callable[[], Awaitable[OpenTurn]], trace: TurnTrace
    ) -> AsyncGenerator[TurnStarted | Round | TurnSummary, None]:
        life = Lifecycle()
        tally = Tally(self._metrics)
        opened: OpenTurn | None = None
        is_refused = False
        watch = ReaderWatch()
        try:
            opened = await open_turn()
            life.move(TurnEvent.PROMPT_RECORDED)
            tally.tokens_before = opened.generated
            record, request = opened.record, opened.request
            started = TurnStarted.of(record, request.seed)
            self._hold(watch, opened)
            with watch.waiting():
                yield started
            if opened.told is not None:
                with watch.waiting():
                    yield opened.told
            moves = iter(MOVE_DELAYS_SECONDS)
            while not life.ended:
                try:
                    decoding = self._decode(opened, tally, life, trace, watch)
                    async with aclosing(decoding):
                        async for decided in decoding:
                            if isinstance(decided, Round):
                                with watch.waiting():
                                    yield decided
                            else:
                                yield tally.summary(decided.finish_reason, started, decided.trouble)
                except Unavailable as error:
                    opened = replace(opened, epoch=await self._fenced(opened, error))
                    delays = iter(MOVE_DELAYS_SECONDS) if isinstance(error, TurnParked) else moves
                    opened = await self._moved(opened, tally, error, delays, trace)
                    self._hold(watch, opened)
                    if opened.told is not None:
                        tally.tokens_before += len(opened.told.tokens)
                        with watch.waiting():
                            yield opened.told
        except (asyncio.CancelledError, GeneratorExit):
            if not life.ended:
                life.move(TurnEvent.CALLER_GONE)
            raise
        except BaseException as error:
            is_refused = opened is None and isinstance(error, Exhausted)
            if opened is not None:
                self._live.lost(opened.record.session_id, opened.epoch, error)
            if not life.ended:
                life.move(TurnEvent.ERROR)
            raise
        finally:
            if is_refused:
                self._metrics.refused.add(1)
            else:
                self._metrics.turns.add(1, {TURN_STATE: life.state.value})
            trace.end(tally.tokens, life.state)
            self._leave(opened, life.state)

    def _leave(self, opened: OpenTurn | None, state: TurnState) -> None:
        if opened is not None and state is not TurnState.FINISHED:
            self._live.end_in_background(self._abandon(opened, state))
        elif opened is not None:
            self._live.free(opened.claim)

    def _hold(
        self, watch: ReaderWatch, opened: OpenTurn, drafter: RemoteDrafter | None = None
    ) -> None:
        """What a turn gives up while its reader stands still."""
        holders = (opened.verifier and opened.verifier.park, drafter and drafter.close)
        watch.holds(*(give_up for give_up in holders if give_up is not None))

    async def _fenced(self, opened: OpenTurn, error: Unavailable) -> int:
        """A new epoch for a turn that goes on after its target failed, or once its reader reads again. Raises
        what is no failure of a target."""
        if isinstance(error, LedgerUnavailable):
            raise error
        session_id = opened.record.session_id
        if not isinstance(error, TurnParked):
            self._target.failed(session_id)
        return await self.opener.fence(session_id, opened.epoch)

    async def _moved(
        self,
        opened: OpenTurn,
        tally: Tally,
        error: TryLater,
        delays: Iterator[float],
        trace: TurnTrace,
    ) -> OpenTurn:
        """The turn opened anew, on another target where there is one. Raises why not when tried enough."""
        record, last = opened.record, error
        for delay in delays:
            await asyncio.sleep(delay)
            try:
                return await self.opener.reopen(
                    record.session_id,
                    record.request_id,
                    opened.claim,
                    opened.epoch,
                    tally.tokens_before + tally.tokens,
                    trace,
                )
            except TryLater as later:
                last = later
        raise last

    async def _decode(
        self,
        opened: OpenTurn,
        tally: Tally,
        life: Lifecycle,
        trace: TurnTrace,
        watch: ReaderWatch,
    ) -> AsyncGenerator[Round | _Ending, None]:
        """Yields the rounds, then how the turn ended."""
        tally.meter = opened.meter
        if opened.finish_reason is not None:
            if opened.record.finish_reason is None:
                await self._finish(opened, opened.finish_reason)
            else:
                await self._live.give_back(opened.claim)
            life.move(TurnEvent.LAST_ROUND_RECORDED)
            yield _Ending(opened.finish_reason, "")
            return
        request, verifier = opened.request, opened.verifier
        assert verifier is not None, "a turn that goes on has its target"
        with trace.current():
            drafter, model_drafter, trouble = self._drafting.open(opened)
        self._hold(watch, opened, model_drafter)
        recorder = LedgerRecorder(self._ledger, request.session_id, opened.epoch)
        turn = opened.turn(
            self._drafting.window(request), self._model.description.max_context_tokens
        )
        plain = self._drafting.mode(request) is LoopMode.SYNCHRONOUS
        self._drafting.crowd.join()
        decode = decode_synchronously if plain else decode_ahead
        try:
            async with aclosing(decode(turn, verifier, drafter, recorder)) as rounds:
                async for decided in rounds:
                    if decided.finish_reason is None:
                        life.move(TurnEvent.ROUND_RECORDED)
                    else:
                        await self._finish(opened, decided.finish_reason)
                        life.move(TurnEvent.LAST_ROUND_RECORDED)
                    tally.add(decided)  # only what is told: a turn that moves goes on after that
                    trace.round(decided)
                    yield decided
        finally:
            self._drafting.crowd.leave()
            verifier.close()
            if model_drafter is not None:
                trouble = trouble or model_drafter.trouble
                self._drafting.close(model_drafter)
        assert turn.finish_reason is not None, "the loop ends with the turn"
        yield _Ending(turn.finish_reason, trouble)

    async def _finish(self, opened: OpenTurn, finish_reason: FinishReason) -> None:
        record = opened.record
        await patiently(
            lambda: self._ledger.finish_turn(
                record.session_id, opened.epoch, record.turn_index, finish_reason
            )
        )

    async def _abandon(self, opened: OpenTurn, state: TurnState) -> None:
        """Writes the end of a turn that nobody listens to any more, then frees the session."""
        if opened.verifier is not None:
            opened.verifier.close()  # nothing was decoded where the caller left at the start
        reason = FinishReason.CANCELLED if state is TurnState.CANCELLED else FinishReason.FAILED
        try:
            # Another owner of the session, or no ledger, leaves the turn without a recorded end.
            with contextlib.suppress(OutriderError):
                await self._finish(opened, reason)
        finally:
            self._live.free(opened.claim)


@dataclass(frozen=True, slots=True)
class _Ending:
    finish_reason: FinishReason
    trouble: str
