"""Runs turns: from a checked request to recorded rounds and a summary.

Joins the parts around the decode loop: the session's tokens from the ledger, the target, the drafters, the
end of the turn, the telemetry. The loop itself is `speculation/decoder.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from ..rpc.telemetry import TURN_STATE, TurnMetrics
from ..speculation.crowd import Crowd
from ..speculation.decoder import decode_ahead, decode_synchronously
from ..speculation.drafters import ComposedDrafter, NoDrafter
from ..speculation.errors import InvalidRequest, ModelMismatch, OutriderError
from ..speculation.lifecycle import Lifecycle, TurnEvent, TurnState
from ..speculation.meter import CostMeter, TurnMeter
from ..speculation.paced import PacedDrafter
from ..speculation.pacing import Pacer
from ..speculation.ports import Drafter
from ..speculation.turn import Turn
from ..speculation.types import DraftMode, Draw, FinishReason, LoopMode, Round
from .draft_link import DraftedTurn, DraftLink, RemoteDrafter
from .ledger import Ledger, LedgerToken, NewTurn, TurnRecord
from .live import LiveSessions
from .model import ServedModel
from .ngrams import NgramMemory
from .requests import TurnRequest, encode_input
from .tally import Tally, TurnStarted, TurnSummary
from .target_link import RemoteVerifier, TargetLink
from .text import TurnText
from .trace import TurnTrace

OWNER = ""


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How the loop paces draft and target, unless a request says otherwise."""

    window: int = 7
    lead: int = 8
    mode: LoopMode = LoopMode.ADAPTIVE


@dataclass(frozen=True, slots=True)
class _OpenTurn:
    """A turn whose prompt is committed. `tokens` are the session's, the prompt included."""

    request: TurnRequest
    record: TurnRecord
    epoch: int
    tokens: tuple[int, ...]
    draw: Draw
    verifier: RemoteVerifier
    meter: TurnMeter


class LedgerRecorder:
    """The ledger as the decode loop sees it: appends each round where the last one ended."""

    def __init__(self, ledger: Ledger, session_id: str, epoch: int) -> None:
        self._ledger = ledger
        self._session_id = session_id
        self._epoch = epoch

    async def record(self, rounds: Sequence[Round]) -> None:
        """Commits the rounds' tokens together."""
        tokens = [token for decided in rounds for token in _ledger_tokens(decided)]
        start_position = rounds[0].start_position
        await self._ledger.append(self._session_id, self._epoch, start_position, tokens)


def _ledger_tokens(decided: Round) -> Iterator[LedgerToken]:
    """Raises ValueError rather than leave a token out."""
    logprobs = decided.logprobs or (None,) * len(decided.tokens)
    for entry in zip(decided.tokens, decided.sources, logprobs, strict=True):
        yield LedgerToken(*entry)


class TurnRunner:
    """Runs the turns of all sessions of this process."""

    def __init__(
        self,
        model: ServedModel,
        target: TargetLink,
        draft: DraftLink | None,
        ledger: Ledger,
        live: LiveSessions,
        settings: LoopSettings,
    ) -> None:
        self._model = model
        self._target = target
        self._draft = draft
        self._ledger = ledger
        self._live = live
        self._settings = settings
        self._metrics = TurnMetrics()
        self._costs = CostMeter(model.description.width)
        self._crowd = Crowd()
        self._ngrams = NgramMemory()

    def forget(self, session_id: str) -> None:
        """Drops what is kept of a session that is deleted."""
        self._ngrams.forget(session_id)

    async def run(
        self, request: TurnRequest, trace: TurnTrace
    ) -> AsyncIterator[TurnStarted | Round | TurnSummary]:
        """Yields `TurnStarted`, the rounds as they are recorded, and the summary.

        Raises OutriderError; what was yielded before stands. Closing the iterator cancels the turn.
        """
        self._live.claim(request.session_id)
        life = Lifecycle()
        tally = Tally(self._metrics)
        opened: _OpenTurn | None = None
        try:
            opened = await self._begin(request, trace)
            life.move(TurnEvent.PROMPT_RECORDED)
            started = TurnStarted(
                opened.record.request_id,
                opened.record.prompt_tokens,
                opened.record.generated_from,
                request.seed,
            )
            yield started
            async with aclosing(self._decode(opened, tally, life, trace)) as decoding:
                async for decided in decoding:
                    if isinstance(decided, Round):
                        yield decided
                    else:
                        yield tally.summary(decided.finish_reason, started, decided.trouble)
        except (asyncio.CancelledError, GeneratorExit):
            if not life.ended:
                life.move(TurnEvent.CALLER_GONE)
            raise
        except BaseException as error:
            self._live.lost(request.session_id, error)
            if not life.ended:
                life.move(TurnEvent.ERROR)
            raise
        finally:
            self._metrics.turns.add(1, {TURN_STATE: life.state.value})
            trace.end(tally.tokens, life.state)
            if opened is not None and life.state is not TurnState.FINISHED:
                self._live.end_in_background(self._abandon(opened, life.state))
            else:
                self._live.free(request.session_id)

    async def _begin(self, request: TurnRequest, trace: TurnTrace) -> _OpenTurn:
        """Checks the request against its session, opens the target, and only then commits the prompt.

        So a turn that the target has no room for, or cannot be reached for, leaves nothing behind.
        """
        session_id, model = request.session_id, self._model
        session = await self._ledger.get_session(session_id, OWNER)
        if session.model_fingerprint != model.description.model_fingerprint:
            raise ModelMismatch("the session was made with another target; create a new session")
        prompt = encode_input(request.input, model, begin=session.length == 0)
        limit = model.description.max_context_tokens
        if session.length + len(prompt) >= limit:
            raise InvalidRequest(
                "input",
                f"the input has {len(prompt)} tokens and the session {session.length}; together they "
                f"must be less than the context of {limit}",
            )
        epoch = await self._live.epoch(session_id)
        committed = await self._ledger.tokens(session_id)
        tokens = (*committed, *prompt)
        draw = Draw(request.sampling, request.seed, len(tokens), request.logprobs)
        meter = TurnMeter(self._costs)
        with trace.current():
            verifier = await self._target.open_turn(session_id, epoch, tokens, draw, meter)
        try:
            new = NewTurn(request.request_id, prompt, request.parameters())
            record = await self._ledger.begin_turn(session_id, epoch, len(committed), new)
        except BaseException:
            verifier.close()
            raise
        return _OpenTurn(request, record, epoch, tokens, draw, verifier, meter)

    async def _decode(
        self, opened: _OpenTurn, tally: Tally, life: Lifecycle, trace: TurnTrace
    ) -> AsyncIterator[Round | _Ending]:
        """Yields the rounds, then how the turn ended."""
        request, tokens, verifier = opened.request, opened.tokens, opened.verifier
        with trace.current():
            drafter, model_drafter, trouble = self._open_drafter(opened)
        recorder = LedgerRecorder(self._ledger, request.session_id, opened.epoch)
        turn = self._turn(request, tokens, verifier.known_length)
        plain = self._mode(request) is LoopMode.SYNCHRONOUS
        self._crowd.join()
        decode = decode_synchronously if plain else decode_ahead
        try:
            async with aclosing(decode(turn, verifier, drafter, recorder)) as rounds:
                async for decided in rounds:
                    tally.add(decided)
                    trace.round(decided)
                    if decided.finish_reason is None:
                        life.move(TurnEvent.ROUND_RECORDED)
                    else:
                        await self._finish(opened, decided.finish_reason)
                        life.move(TurnEvent.LAST_ROUND_RECORDED)
                    yield decided
        finally:
            self._crowd.leave()
            verifier.close()
            if model_drafter is not None:
                trouble = trouble or model_drafter.trouble
                model_drafter.close()
        assert turn.finish_reason is not None, "the loop ends with the turn"
        tally.meter = opened.meter
        yield _Ending(turn.finish_reason, trouble)

    def _turn(self, request: TurnRequest, tokens: Sequence[int], known_length: int) -> Turn:
        description = self._model.description
        room = description.max_context_tokens - len(tokens)
        window = self._settings.window if request.max_window is None else request.max_window
        end = TurnText(
            self._model.tokenizer,
            tokens,
            stop=request.stop,
            end_tokens=description.end_token_ids,
            max_new_tokens=request.max_new_tokens,
            room=room,
        )
        window = min(window, description.width - 1)
        return Turn(tokens, known_length, window, end, min(request.max_new_tokens, room))

    def _mode(self, request: TurnRequest) -> LoopMode:
        return request.loop or self._settings.mode

    def _open_drafter(self, opened: _OpenTurn) -> tuple[Drafter, RemoteDrafter | None, str]:
        """The turn's drafter, the part of it that is a model, and what is wrong already."""
        request, settings = opened.request, self._settings
        window = settings.window if request.max_window is None else request.max_window
        window = min(window, self._model.description.width - 1)
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
                opened.draw,
                max(lead, window),
                burst,
                self._model.description.vocabulary_fingerprint,
                self._model.description.vocabulary_size,
            ),
            opened.meter,
        )
        ngram = None
        if request.draft is not DraftMode.MODEL:
            ngram = self._ngrams.open(request.session_id, opened.tokens)
        if mode is LoopMode.ADAPTIVE:
            agreement = self._ngrams.agreement(request.session_id)
            pacer = Pacer(agreement, window)
            paced = PacedDrafter(model, ngram, pacer, opened.meter, self._crowd, window)
            return paced, model, ""
        return (model if ngram is None else ComposedDrafter(ngram, model)), model, ""

    async def _finish(self, opened: _OpenTurn, finish_reason: FinishReason) -> None:
        record = opened.record
        await self._ledger.finish_turn(
            record.session_id, opened.epoch, record.turn_index, finish_reason
        )

    async def _abandon(self, opened: _OpenTurn, state: TurnState) -> None:
        """Writes the end of a turn that nobody listens to any more, then frees the session."""
        reason = FinishReason.CANCELLED if state is TurnState.CANCELLED else FinishReason.FAILED
        try:
            # Another owner of the session, or no ledger, leaves the turn without a recorded end.
            with contextlib.suppress(OutriderError):
                await self._finish(opened, reason)
        finally:
            self._live.free(opened.record.session_id)


@dataclass(frozen=True, slots=True)
class _Ending:
    finish_reason: FinishReason
    trouble: str
