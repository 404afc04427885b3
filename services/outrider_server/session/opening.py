"""Opens turns: what has to hold, the target's stream, and the prompt in the ledger, in this order.

A new turn is begun; one that the ledger knows already, from this process or another, is gone on with. Either
way the rest of the turn is the same, because its tokens depend on nothing but target, prompt and parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from ..core.errors import AlreadyExists, InvalidRequest, PositionMismatch
from ..core.types import FinishReason, Round
from .conversation import Held, Prompt, check_known, prompt_for, turn_text
from .ledger.ledger import Ledger, LedgerToken, NewTurn, TurnRecord
from .live import Claim, LiveSessions
from .open_turn import EndedTurn, OpenTurn
from .peers.targets import Targets
from .records import SessionRecords
from .requests import (
    TurnRequest,
    recorded_arithmetic,
    recorded_chat,
    recorded_request,
    what_differs,
)
from .text.encoded_input import plain_tokens
from .text.messages import ChatInput
from .text.model import ServedModel
from .text.reading import Reading
from .trace import TurnTrace

UNFINISHED = (None, FinishReason.CANCELLED, FinishReason.FAILED)
"""How a turn ends that can be gone on with."""


class TurnOpener:
    """Opens the turns of all sessions of this process."""

    def __init__(
        self,
        model: ServedModel,
        target: Targets,
        ledger: Ledger,
        records: SessionRecords,
        live: LiveSessions,
        reading: Reading,
    ) -> None:
        self._model = model
        self._reading = reading
        self._target = target
        self._ledger = ledger
        self._records = records
        self._live = live

    async def find(self, request: TurnRequest, seed_is_given: bool) -> TurnRecord | None:
        """The turn that the request has begun before, or None.

        Raises NotFound for an unknown session, and AlreadyExists, naming what differs, where its id was used
        for another request.
        """
        await self._records.session(request.session_id)
        found = await self._ledger.find_turn(request.session_id, request.request_id)
        if found is None:
            return None
        different = what_differs(request, seed_is_given, found)
        if not await self._said(request, found):
            different.insert(0, "input")
        if different:
            raise AlreadyExists(
                f"the session has used this request_id with another {', '.join(different)}; "
                "choose another id, or send the same request"
            )
        return found

    async def generate(
        self, request: TurnRequest, seed_is_given: bool, trace: TurnTrace
    ) -> OpenTurn | EndedTurn:
        """Begins a turn; one that was begun before under the same request id is gone on with."""
        session_id, request_id = request.session_id, request.request_id
        if not request_id or not await self.find(request, seed_is_given):
            try:
                return await self.begin(request, trace)
            except AlreadyExists:  # another process has begun it since, or it was taken back
                if await self.find(request, seed_is_given) is None:
                    raise
        return await self.attach(session_id, request_id, 0, trace)

    async def begin(self, request: TurnRequest, trace: TurnTrace) -> OpenTurn:
        """Checks the request against its session, opens the target, and only then commits the prompt.

        So a turn that the target has no room for, or cannot be reached for, leaves nothing behind.
        """
        claim = self._live.claim(request.session_id)
        try:
            return await self._begin(request, claim, trace)
        except BaseException:
            self._live.free(claim)
            raise

    async def _begin(self, request: TurnRequest, claim: Claim, trace: TurnTrace) -> OpenTurn:
        session_id = request.session_id
        epoch, held, prompt = await self._prompt(request)
        tokens = (*held.tokens[: prompt.kept], *prompt.tokens)
        draw = request.draw(len(tokens), self._model.description.end_token_ids)
        verifier = None
        try:
            with trace.current():
                verifier = await self._target.open_turn(
                    session_id, epoch, tokens, prompt.kept, draw
                )
            record, epoch = await self._begun(
                session_id, epoch, len(held.tokens), prompt.new_turn(request, verifier.arithmetic)
            )
        except BaseException as error:
            self._live.lost(session_id, epoch, error)
            if verifier is not None:
                verifier.close()
            raise
        end = turn_text(record, tokens, self._model)
        return OpenTurn(request, record, claim, epoch, tokens, prompt.kept, draw, end, verifier)

    async def attach(
        self, session_id: str, request_id: str, from_index: int, trace: TurnTrace
    ) -> OpenTurn | EndedTurn:
        """Takes the session over and opens a turn that the ledger holds, by default its last.

        `from_index` counts the turn's generated tokens; those before it are not told again. Raises NotFound,
        InvalidRequest, PositionMismatch for an index beyond what is committed, ModelMismatch, and what
        opening the target raises.
        """
        if from_index < 0:
            raise InvalidRequest("from_index", "from_index must not be negative")
        await self._records.session(session_id)
        _, record = await self._records.turn(session_id, request_id)
        self._check_index(from_index, await self._records.generated(record))
        claim, epoch = await self._live.take_over(session_id)
        try:
            return await self.reopen(session_id, request_id, claim, epoch, from_index, trace)
        except BaseException:
            self._live.free(claim)
            raise

    async def fence(self, session_id: str, epoch: int) -> int:
        """A new epoch, in which nothing was sent yet, for a session that is still the caller's.

        Raises StaleEpoch when it is not, however the caller came to ask: one that was cut off must not take
        back what another has taken over.
        """
        session = await self._records.session(session_id)
        fenced = await self._ledger.rewind(session_id, epoch, session.length, session.length)
        self._live.moved(session_id, fenced.epoch)
        return fenced.epoch

    async def reopen(
        self,
        session_id: str,
        request_id: str,
        claim: Claim,
        epoch: int,
        from_index: int,
        trace: TurnTrace,
    ) -> OpenTurn | EndedTurn:
        """Opens a turn again, of a session that the caller owns under an epoch in which nothing was sent yet.

        What the turn's last writer still wrote is there now, and nothing can follow.
        """
        is_last, record = await self._records.turn(session_id, request_id)
        return await self._reopen(record, is_last, claim, epoch, from_index, trace)

    async def _reopen(
        self,
        record: TurnRecord,
        is_last: bool,
        claim: Claim,
        epoch: int,
        from_index: int,
        trace: TurnTrace,
    ) -> OpenTurn | EndedTurn:
        session_id, request = record.session_id, recorded_request(record)
        generated = await self._records.generated(record)
        tokens = (*(await self._ledger.tokens(session_id)),)
        tokens = tokens[: record.generated_from + len(generated)]
        end = turn_text(record, tokens[: record.generated_from], self._model, len(generated))
        accepted = end.accept([entry.token for entry in generated])
        told = _told(record, generated, accepted.texts, from_index)
        finish_reason = accepted.finish_reason
        kept = len(tokens)
        goes_on = is_last and not record.is_cut and record.finish_reason in UNFINISHED
        if finish_reason is None and not goes_on:
            finish_reason = record.finish_reason or FinishReason.CANCELLED
        if finish_reason is not None:
            return EndedTurn(request, record, claim, epoch, finish_reason, told, len(generated))
        check_known(tokens, self._model)
        draw = request.draw(record.generated_from, self._model.description.end_token_ids)
        with trace.current():
            verifier = await self._target.open_turn(
                session_id, epoch, tokens, kept, draw, recorded_arithmetic(record)
            )
        return OpenTurn(
            request,
            record,
            claim,
            epoch,
            tokens,
            kept,
            draw,
            end,
            verifier,
            told,
            len(generated),
        )

    async def _said(self, request: TurnRequest, record: TurnRecord) -> bool:
        """True where the turn was begun with the request's input."""
        asked = request.input
        if isinstance(asked, ChatInput) or record.chat is not None:
            return recorded_chat(record) == asked
        begin = record.start_position == 0
        encode = functools.partial(plain_tokens, asked, self._model, begin=begin)
        prompt = await self._reading.read(request.size, encode)
        held = await self._ledger.tokens(request.session_id, record.start_position)
        return tuple(held[: record.prompt_tokens]) == prompt

    async def _prompt(self, request: TurnRequest) -> tuple[int, Held, Prompt]:
        """The epoch, what the session holds, and what the input makes of it.

        What is refused is refused before the session is taken over, so it is read before, and once more where
        somebody else has written to it meanwhile. While an epoch lasts a session only grows, and the ledger
        compares its length with that of the tokens, which are read first.
        """
        session_id = request.session_id
        while True:
            session = await self._records.session(session_id)
            held = await self._records.held(
                session_id, with_turns=isinstance(request.input, ChatInput)
            )
            make = functools.partial(prompt_for, request.input, held, self._model)
            prompt = await self._reading.read(request.size + held.size, make)
            epoch = await self._live.epoch(session_id)
            if epoch <= session.epoch:  # one that is out of date is refused
                return epoch, held, prompt
            now = await self._records.session(session_id)
            if epoch == session.epoch + 1 and now.length == len(held.tokens):
                return epoch, held, prompt

    async def _begun(
        self, session_id: str, epoch: int, length: int, new: NewTurn
    ) -> tuple[TurnRecord, int]:
        """The turn as the ledger begins it, and the epoch that it is in."""
        try:
            record = await self._ledger.begin_turn(session_id, epoch, length, new)
        except BaseException:
            if new.start_position != length:
                self._live.forget(session_id)  # the next epoch may have begun
            raise
        if record.rewound_tokens:
            epoch += 1
            self._live.moved(session_id, epoch)
        return record, epoch

    def _check_index(self, from_index: int, generated: Sequence[LedgerToken]) -> None:
        if from_index > len(generated):
            raise PositionMismatch(
                f"from_index {from_index} is beyond the {len(generated)} tokens that are committed",
                len(generated),
            )


def _told(
    record: TurnRecord, generated: Sequence[LedgerToken], texts: Sequence[str], from_index: int
) -> Round | None:
    """The committed tokens from an index on, as one round that nobody has to verify."""
    told = generated[from_index:]
    if not told:
        return None
    logprobs = tuple(entry.logprobs for entry in told if entry.logprobs is not None)
    return Round(
        start_position=record.generated_from + from_index,
        tokens=tuple(entry.token for entry in told),
        texts=tuple(texts[from_index:]),
        sources=tuple(entry.source for entry in told),
        logprobs=logprobs if len(logprobs) == len(told) else (),
        proposed=0,
        agreed=0,
        context=0,
    )
