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
from ..speculation.crowd import Crowd
from ..speculation.decoder import decode_ahead, decode_synchronously
from ..speculation.drafters import ComposedDrafter, NoDrafter
from ..speculation.errors import Exhausted, OutriderError, TryLater, Unavailable
from ..speculation.lifecycle import Lifecycle, TurnEvent, TurnState
from ..speculation.paced import PacedDrafter
from ..speculation.pacing import Pacer
from ..speculation.ports import Drafter
from ..speculation.types import DraftMode, FinishReason, LoopMode, Round
from .draft_link import DraftedTurn, RemoteDrafter
from .drafts import Drafts
from .ledger import Ledger
from .live import LiveSessions
from .model import ServedModel
from .ngrams import NgramMemory
from .open_turn import OpenTurn
from .opening import TurnOpener
from .reading import Reading
from .recorder import LedgerRecorder
from .requests import TurnRequest
from .tally import Tally, TurnStarted, TurnSummary
from .targets import Targets
from .trace import TurnTrace

MOVE_DELAYS_SECONDS = (0.0, 0.2, 0.8)
"""Before each attempt to go on with a turn whose target, or ledger, could not be reached."""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the loop paces draft and target, unless a request says otherwise."""

    window: int = 7
    lead: int = 8
    mode: LoopMode = LoopMode.ADAPTIVE


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
        self._draft = draft
        self._ledger = ledger
        self._live = live
        self._settings = settings
        self._metrics = TurnMetrics()
        self._target = target
        self.opener = TurnOpener(model, target, ledger, live, reading)
        self._crowd = Crowd()
        self._ngrams = NgramMemory()

    def forget(self, session_id: str) -> None:
        """Drops what is kept of a session that is deleted."""
        self._ngrams.forget(session_id)

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
        try:
            opened = await open_turn()
            life.move(TurnEvent.PROMPT_RECORDED)
            tally.tokens_before = opened.generated
            record, request = opened.record, opened.request
            started = TurnStarted.of(record, request.seed)
            yield started
            if opened.told is not None:
                yield opened.told
            moves = iter(MOVE_DELAYS_SECONDS)
            while not life.ended:
                try:
                    async with aclosing(self._decode(opened, tally, life, trace)) as decoding:
                        async for decided in decoding:
                            if isinstance(decided, Round):
                                yield decided
                            else:
                                yield tally.summary(decided.finish_reason, started, decided.trouble)
                except Unavailable as error:
                    self._target.failed(record.session_id)
                    epoch = await self.opener.fence(record.session_id, opened.epoch)
                    opened = replace(opened, epoch=epoch)
                    opened = await self._moved(opened, tally, error, moves, trace)
                    if opened.told is not None:
                        tally.tokens_before += len(opened.told.tokens)
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
            if opened is not None and life.state is not TurnState.FINISHED:
                self._live.end_in_background(self._abandon(opened, life.state))
            elif opened is not None:
                self._live.free(opened.claim)

    async def _moved(
        self,
        opened: OpenTurn,
        tally: Tally,
        error: Unavailable,
        delays: Iterator[float],
        trace: TurnTrace,
    ) -> OpenTurn:
        """The turn opened anew, on another target where there is one. Raises `error` when tried enough."""
        record = opened.record
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
            except TryLater:
                continue
        raise error

    async def _decode(
        self, opened: OpenTurn, tally: Tally, life: Lifecycle, trace: TurnTrace
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
            drafter, model_drafter, trouble = self._open_drafter(opened)
        recorder = LedgerRecorder(self._ledger, request.session_id, opened.epoch)
        turn = opened.turn(self._window(request), self._model.description.max_context_tokens)
        plain = self._mode(request) is LoopMode.SYNCHRONOUS
        self._crowd.join()
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
            self._crowd.leave()
            verifier.close()
            if model_drafter is not None:
                trouble = trouble or model_drafter.trouble
                assert self._draft is not None, "the drafter came from there"
                self._draft.close(model_drafter)
        assert turn.finish_reason is not None, "the loop ends with the turn"
        yield _Ending(turn.finish_reason, trouble)

    def _window(self, request: TurnRequest) -> int:
        window = self._settings.window if request.max_window is None else request.max_window
        return min(window, self._model.description.width - 1)

    def _mode(self, request: TurnRequest) -> LoopMode:
        return request.loop or self._settings.mode

    def _open_drafter(self, opened: OpenTurn) -> tuple[Drafter, RemoteDrafter | None, str]:
        """The turn's drafter, the part of it that is a model, and what is wrong already."""
        request, settings = opened.request, self._settings
        window = self._window(request)
        opened.meter.resting = True
        if request.draft is DraftMode.OFF or window == 0:
            return NoDrafter(), None, ""
        if request.draft is DraftMode.NGRAM or self._draft is None:
            missing = request.draft is DraftMode.MODEL
            trouble = "the service has no draft; it proposes from n-grams" if missing else ""
            return self._ngrams.open(request.session_id, opened.tokens), None, trouble
        mode = self._mode(request)
        opened.meter.resting = False
        opened.meter.ahead = mode is LoopMode.RUN_AHEAD
        # The plain loop waits for whole windows; the others say with their first commit what they want.
        lead, burst = (window, window) if mode is LoopMode.SYNCHRONOUS else (settings.lead, 1)
        model = self._draft.open_turn(
            DraftedTurn(
                request.session_id,
                opened.epoch,
                opened.tokens,
                opened.kept,
                opened.draw,
                max(lead, window),
                burst,
                self._model.description.vocabulary_fingerprint,
                self._model.description.vocabulary_size,
            ),
            opened.meter,
        )
        if model is None:
            opened.meter.resting = True
            trouble = "no draft has answered lately; they rest"
            return self._ngrams.open(request.session_id, opened.tokens), None, trouble
        ngram = None
        if request.draft is not DraftMode.MODEL:
            ngram = self._ngrams.open(request.session_id, opened.tokens)
        if mode is LoopMode.ADAPTIVE:
            agreement = self._ngrams.agreement(request.session_id)
            pacer = Pacer(agreement, window)
            paced = PacedDrafter(model, ngram, pacer, opened.meter, self._crowd, window)
            return paced, model, ""
        return (model if ngram is None else ComposedDrafter(ngram, model)), model, ""

    async def _finish(self, opened: OpenTurn, finish_reason: FinishReason) -> None:
        record = opened.record
        await self._ledger.finish_turn(
            record.session_id, opened.epoch, record.turn_index, finish_reason
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
