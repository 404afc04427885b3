"""Planted bugs: each breaks one part of the product the way a person might, for the time of a `with`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

from outrider import _channel, _stream
from outrider.types import Event
from outrider_server.core.errors import OutriderError
from outrider_server.core.types import decide
from outrider_server.engine import verifying
from outrider_server.engine.drafting import DraftJob
from outrider_server.engine.engine import Engine
from outrider_server.engine.parking import ParkedSession
from outrider_server.engine.slots import Slot
from outrider_server.host.engine_host import EngineHost
from outrider_server.session import opening, records
from outrider_server.session.ledger import sql_owners, sql_work, sql_writes
from outrider_server.session.ledger.recorder import LedgerRecorder
from outrider_server.session.ledger.sql_work import Statement
from outrider_server.session.live import LiveSessions
from outrider_server.session.opening import TurnOpener
from outrider_server.session.peers import target_link
from outrider_server.session.running_turn import RunningTurn
from outrider_server.speculation.guesses import Guesses
from outrider_server.speculation.ngram import NgramDrafter

from .ledger import SimulatedLedger
from .model import WIDTH

Bug = Callable[[], AbstractContextManager[Any]]
Replaced = tuple[Any, str, Any]


def _bug(*replaced: Replaced) -> Bug:
    """A bug that puts other functions in the place of these."""

    @contextlib.contextmanager
    def planted() -> Iterator[None]:
        with ExitStack() as stack:
            for owner, name, function in replaced:
                stack.enter_context(mock.patch.object(owner, name, function))
            yield

    return planted


def _nothing(*_: Any, **__: Any) -> None:
    return None


record, commit, told = LedgerRecorder.record, DraftJob.commit, opening._told
rewind, fork, take_back = sql_writes.rewind, sql_writes.fork, sql_writes.take_back
receive, begin_turn = Guesses.receive, SimulatedLedger.begin_turn
check, resume, attach = _stream._Order.check, _stream._Order.resume, _channel.Channel.attach


def _lock_anyones(session_id: str, _: int) -> Any:
    return sql_work.lock_session(session_id)


async def _record_later(self: LedgerRecorder, rounds: Any) -> None:
    asyncio.create_task(record(self, rounds))  # noqa: RUF006


async def _record_twice(self: LedgerRecorder, rounds: Any) -> None:
    await record(self, rounds)
    with contextlib.suppress(OutriderError):
        await record(self, rounds)


async def _keep_epoch(self: LiveSessions, session_id: str) -> Any:
    epoch = (await self._ledger.get_session(session_id, records.OWNER)).epoch
    self._epochs[session_id] = epoch
    return self._claim(session_id), epoch


def _attach_one_later(self: Any, request: Any, timeout: Any, metadata: Any) -> Any:
    request.from_index += request.from_index > 0
    return attach(self, request, timeout, metadata)


def _tell_one_later(turn: Any, generated: Any, texts: Any, from_index: int) -> Any:
    return told(turn, generated, texts, from_index + (from_index > 0))


def _accept_any(self: Any, message: Any) -> bool:
    if isinstance(message, Event):
        self.next_index = message.index
    return check(self, message)


def _resume_and_skip(self: Any) -> None:
    self.skips = True
    resume(self)


def _check_and_skip(self: Any, message: Any) -> bool:
    news = check(self, message)
    if isinstance(message, Event) and getattr(self, "skips", False):
        self.skips = False
        return False
    return news


def _receive_any(self: Guesses, _: int, start_position: int, tokens: Any) -> None:
    receive(self, self.branch, start_position, tokens)


def _count_twice(self: DraftJob, *arguments: Any, **named: Any) -> None:
    before = self._branch
    commit(self, *arguments, **named)
    self._branch += self._branch - before


def _count_none(self: DraftJob, *arguments: Any, **named: Any) -> None:
    before = self._branch
    commit(self, *arguments, **named)
    self._branch = before


def _park_one_less(self: Engine, slot: Slot) -> None:
    if self.park_bytes and slot.tokens:
        layers = self.runner.read_slot(slot.index, len(slot.tokens) - 1)
        self.parked.put(slot.session_id, ParkedSession(slot.epoch, tuple(slot.tokens), layers))


def _reach_too_far(self: Engine, length: int) -> int:
    return length + WIDTH


async def _find_none(self: TurnOpener, *_: Any) -> None:
    return None


async def _begin_again(
    self: SimulatedLedger, session: str, epoch: int, length: int, new: Any
) -> Any:
    held = [turn.request_id for turn in await self.turns(session)]
    name = new.request_id + " again" * held.count(new.request_id)
    turn = replace(new, request_id=name)
    return await begin_turn(self, session, epoch, length, turn)


def _drop_tokens(session: str, from_index: int) -> Any:
    yield Statement(
        "DELETE FROM chunks WHERE session_id = ? AND turn_index >= ?", (session, from_index)
    )


def _take_tokens_back(session: str, epoch: int, length: int, turn_index: int) -> Any:
    count = (yield from sql_work.read_session(session)).turn_count
    with mock.patch.object(sql_writes, "_drop_turns", _drop_tokens):
        record = yield from take_back(session, epoch, length, turn_index)
    yield Statement("UPDATE sessions SET turn_count = ? WHERE session_id = ?", (count, session))
    return replace(record, turn_count=count)


def _take_back_by_rewind(session: str, epoch: int, length: int, turn_index: int) -> Any:
    found = yield Statement(
        "SELECT start_position FROM turns WHERE session_id = ? AND turn_index = ?",
        (session, turn_index),
    )
    return (yield from rewind(session, epoch, length, found.rows[0][0]))


def _agree_one_more(proposed: Any, drawn: Any) -> int:
    return min(len(proposed), decide(proposed, drawn) + 1)


def _rewind_unfenced(session: str, epoch: int, length: int, to_position: int) -> Any:
    record = yield from rewind(session, epoch, length, to_position)
    yield Statement("UPDATE sessions SET epoch = ? WHERE session_id = ?", (epoch, session))
    return replace(record, epoch=epoch)


def _rewind_less(session: str, epoch: int, length: int, to_position: int) -> Any:
    return rewind(session, epoch, length, to_position + (0 < to_position < length))


def _fork_less(session: str, owner: str, at_position: Any, new_id: Any) -> Any:
    return fork(session, owner, at_position and at_position - 1, new_id)


def _tell_from_the_start(record: Any, generated: Any, texts: Any, _: int) -> Any:
    return told(record, generated, texts, 0)


def _leave_index(self: NgramDrafter) -> None:
    """The drafter of a turn that lost its session goes on using the index."""


async def _abandon_nothing(self: RunningTurn, *_: Any) -> None:
    return None


PLANTED: dict[str, Bug] = {
    "a round is shown before the ledger has it": _bug((LedgerRecorder, "record", _record_later)),
    "a repeated append is written again, its length unchecked": _bug(
        (LedgerRecorder, "record", _record_twice), (sql_writes, "check_length", _nothing)
    ),
    "the ledger does not check the epoch": _bug(
        (sql_writes, "lock_owned_session", _lock_anyones),
        (sql_owners, "lock_owned_session", _lock_anyones),
    ),
    "attaching does not take the session over": _bug((LiveSessions, "take_over", _keep_epoch)),
    "the client resumes one token too late": _bug((_channel.Channel, "attach", _attach_one_later)),
    "the service resumes too late and the client accepts the gap": _bug(
        (opening, "_told", _tell_one_later), (_stream._Order, "check", _accept_any)
    ),
    "the client takes the first token after a resume for a repeat": _bug(
        (_stream._Order, "resume", _resume_and_skip), (_stream._Order, "check", _check_and_skip)
    ),
    "a slot's opening is not checked": _bug((Slot, "check_opening", _nothing)),
    "a guess from before a correction is used": _bug((Guesses, "receive", _receive_any)),
    "the draft counts a branch twice": _bug((DraftJob, "commit", _count_twice)),
    "the draft does not count branches": _bug((DraftJob, "commit", _count_none)),
    "the target's digest is not compared": _bug(
        (target_link, "usable_length", lambda length, digest, tokens: length)
    ),
    "parking leaves out the last position": _bug((Engine, "_park_slot", _park_one_less)),
    "a context that outgrows the border is not read anew": _bug((Engine, "turn_to", _nothing)),
    "a row crosses the border": _bug((Engine, "reach", _reach_too_far)),
    "a prompt is recorded again when it is asked for again": _bug(
        (TurnOpener, "find", _find_none), (SimulatedLedger, "begin_turn", _begin_again)
    ),
    "a turn that is taken back leaves its messages": _bug(
        (sql_writes, "take_back", _take_tokens_back)
    ),
    "a turn that is taken back takes along what its prompt took the place of": _bug(
        (sql_writes, "take_back", _take_back_by_rewind)
    ),
    "a rewind begins no new epoch": _bug((sql_writes, "rewind", _rewind_unfenced)),
    "a rewind keeps a token too many": _bug((sql_writes, "rewind", _rewind_less)),
    "a copy leaves out the last token": _bug((sql_writes, "fork", _fork_less)),
    "a turn that moves is told from its start": _bug((opening, "_told", _tell_from_the_start)),
    "a turn that lost its session keeps the index": _bug((NgramDrafter, "retire", _leave_index)),
    "a token more than agreed is accepted": _bug((verifying, "decide", _agree_one_more)),
    "a cancelled turn keeps its claim": _bug((RunningTurn, "_abandon", _abandon_nothing)),
    "a turn's slot is not closed": _bug((EngineHost, "close", _nothing)),
}
