"""What every ledger promises of a turn whose prompt takes the place of what the session held, as tests."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from outrider_server.core.errors import AlreadyExists, PositionMismatch, StaleEpoch
from outrider_server.core.types import FinishReason
from outrider_server.session.ledger.ledger import Ledger, NewTurn

from .ledger_fixtures import FIRST_REPLY, TOKENS, LedgerFixtures, generated, two_turns


@dataclass(frozen=True)
class PlainTurn:
    """A turn as a list keeps it."""

    start: int
    prompt: tuple[int, ...]
    reply: tuple[int, ...] = ()
    chat: str | None = None
    told: str | None = None
    is_cut: bool = False
    has_ended: bool = False

    def until(self, position: int) -> PlainTurn:
        """What is left of it before a position."""
        prompt = self.prompt[: position - self.start]
        whole = len(prompt) == len(self.prompt)
        reply = self.reply[: max(0, position - self.start - len(self.prompt))]
        chat = self.chat if whole or self.chat is None else ""
        return replace(self, prompt=prompt, reply=reply, chat=chat, told=None, is_cut=True)


@dataclass
class PlainSession:
    """A session as the list of its tokens and of its turns."""

    tokens: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    """For each token the index of the turn that wrote it."""
    turns: list[PlainTurn] = field(default_factory=list)
    found: list[tuple[list[int], list[int], list[PlainTurn]]] = field(default_factory=list)
    """For each turn what it found."""

    def begin(self, turn: PlainTurn, last_reply: str | None) -> None:
        if last_reply is not None:
            self.turns[-1] = replace(self.turns[-1], told=last_reply)
        if turn.start < len(self.tokens) and not self.turns[-1].has_ended:
            self.turns[-1] = replace(self.turns[-1], is_cut=True)
        self.found.append((list(self.tokens), list(self.owners), list(self.turns)))
        self.turns.append(turn)
        self.end_at(turn.start)
        self.write(turn.prompt)

    def generate(self, reply: tuple[int, ...]) -> None:
        self.turns[-1] = replace(self.turns[-1], reply=self.turns[-1].reply + reply)
        self.write(reply)

    def write(self, tokens: tuple[int, ...]) -> None:
        self.tokens += tokens
        self.owners += [len(self.turns) - 1] * len(tokens)

    def end_at(self, position: int) -> None:
        del self.tokens[position:], self.owners[position:]

    def take_back(self, index: int) -> None:
        self.tokens, self.owners, turns = self.found[index]
        self.turns = [*self.turns[:index]]
        assert len(turns) == index
        del self.found[index:]

    def rewind(self, position: int) -> None:
        last = self.owners[position - 1] if position else -1
        loses = position < len(self.owners) and self.owners[position] == last
        del self.turns[last + 1 :], self.found[last + 1 :]
        if loses:
            self.turns[last] = self.turns[last].until(position)
        self.end_at(position)

    def fork(self, position: int) -> PlainSession:
        copy = PlainSession(list(self.tokens), list(self.owners), list(self.turns), [*self.found])
        copy.rewind(position)
        if copy.turns and not (copy.turns[-1].has_ended or copy.turns[-1].is_cut):
            copy.turns[-1] = replace(copy.turns[-1], is_cut=True, told=None)
        return copy


async def assert_same(ledger: Ledger, session_id: str, plain: PlainSession) -> None:
    assert await ledger.tokens(session_id) == plain.tokens
    for first in range(len(plain.tokens) + 1):
        assert await ledger.tokens(session_id, first) == plain.tokens[first:]
    records = await ledger.turns(session_id)
    assert [record.turn_index for record in records] == list(range(len(plain.turns)))
    for record, turn in zip(records, plain.turns, strict=True):
        assert (record.start_position, record.prompt_tokens) == (turn.start, len(turn.prompt))
        assert (record.chat, record.reply) == (turn.chat, turn.told)
        assert record.is_cut is turn.is_cut
        replies = await ledger.turn_tokens(session_id, record.turn_index)
        assert tuple(entry.token for entry in replies) == turn.reply
    session = await ledger.get_session(session_id, "")
    assert (session.length, session.turn_count) == (len(plain.tokens), len(plain.turns))


class OverlapConformance(LedgerFixtures):
    async def test_a_prompt_takes_the_place_of_what_stood_there_and_turns_keep_their_tokens(
        self, ledger: Ledger
    ) -> None:
        session_id, epoch = await two_turns(ledger)
        turn = NewTurn("third", (30, 31), start_position=5, chat="[]", last_reply="said")
        record = await ledger.begin_turn(session_id, epoch, 11, turn)
        assert (record.start_position, record.generated_from) == (5, 7)
        assert (record.rewound_tokens, record.turn_index) == (6, 2)
        session = await ledger.get_session(session_id, "")
        assert (session.epoch, session.length, session.turn_count) == (epoch + 1, 7, 3)
        await ledger.append(session_id, epoch + 1, 7, generated(32))
        assert await ledger.tokens(session_id) == [*TOKENS[:5], 30, 31, 32]
        assert await ledger.turn_tokens(session_id, 0) == FIRST_REPLY
        assert await ledger.turn_tokens(session_id, 1) == generated(19, 20)
        assert await ledger.turn_tokens(session_id, 2) == generated(32)
        first, second, third = await ledger.turns(session_id)
        assert (first.reply, second.reply, third.reply) == (None, "said", None)
        assert (first.chat, third.chat) == (None, "[]")
        assert [first.is_cut, second.is_cut] == [False, False], "they had ended"
        assert await ledger.find_turn(session_id, "third") == third

    async def test_writes_from_before_such_a_prompt_are_refused_though_the_length_is_the_same(
        self, ledger: Ledger
    ) -> None:
        session_id, epoch = await two_turns(ledger)
        await ledger.begin_turn(
            session_id, epoch, 11, NewTurn("third", (30,) * 4, start_position=7)
        )
        with pytest.raises(StaleEpoch):
            await ledger.append(session_id, epoch, 11, generated(21))
        with pytest.raises(StaleEpoch):
            await ledger.begin_turn(session_id, epoch, 11, NewTurn("fourth", (1,)))
        assert await ledger.tokens(session_id) == [*TOKENS[:7], 30, 30, 30, 30]

    async def test_a_prompt_at_the_end_begins_no_epoch(self, ledger: Ledger) -> None:
        session_id, epoch = await two_turns(ledger)
        record = await ledger.begin_turn(
            session_id, epoch, 11, NewTurn("third", (30,), start_position=11)
        )
        assert record.rewound_tokens == 0
        assert (await ledger.get_session(session_id, "")).epoch == epoch

    async def test_such_a_prompt_is_written_whole_or_not_at_all(self, ledger: Ledger) -> None:
        session_id, epoch = await two_turns(ledger)
        before = await ledger.turns(session_id)
        for error, length, turn in (
            (PositionMismatch, 10, NewTurn("third", (1,), start_position=5, last_reply="x")),
            (AlreadyExists, 11, NewTurn("first", (1,), start_position=5, last_reply="x")),
            (ValueError, 11, NewTurn("third", (1,), start_position=12, last_reply="x")),
            (ValueError, 11, NewTurn("third", (1,), start_position=-1, last_reply="x")),
        ):
            with pytest.raises(error):
                await ledger.begin_turn(session_id, epoch, length, turn)
        assert await ledger.turns(session_id) == before
        assert await ledger.tokens(session_id) == TOKENS
        assert (await ledger.get_session(session_id, "")).epoch == epoch

    async def test_a_rewind_to_where_such_a_turn_began_leaves_the_turns_before_whole(
        self, ledger: Ledger
    ) -> None:
        session_id, epoch = await two_turns(ledger)
        before = await ledger.turns(session_id)
        await ledger.begin_turn(session_id, epoch, 11, NewTurn("third", (30,), start_position=5))
        await ledger.append(session_id, epoch + 1, 6, generated(31))
        await ledger.rewind(session_id, epoch + 1, 7, 5)
        assert await ledger.tokens(session_id) == TOKENS[:5]
        assert await ledger.turns(session_id) == before[:1], "the second began behind position 5"
        assert await ledger.turn_tokens(session_id, 0) == FIRST_REPLY

    async def test_a_turn_taken_back_gives_back_what_it_took_the_place_of(
        self, ledger: Ledger
    ) -> None:
        session_id, epoch = await two_turns(ledger)
        before = await ledger.turns(session_id)
        await ledger.begin_turn(session_id, epoch, 11, NewTurn("third", (30,), start_position=5))
        await ledger.begin_turn(session_id, epoch + 1, 6, NewTurn("fourth", (31,)))
        for error, call in (
            (StaleEpoch, ledger.take_back(session_id, epoch, 7, 2)),
            (PositionMismatch, ledger.take_back(session_id, epoch + 1, 6, 2)),
            (ValueError, ledger.take_back(session_id, epoch + 1, 7, 4)),
        ):
            with pytest.raises(error):
                await call
        record = await ledger.take_back(session_id, epoch + 1, 7, 2)
        assert (record.length, record.turn_count, record.epoch) == (11, 2, epoch + 2)
        assert await ledger.tokens(session_id) == TOKENS
        assert await ledger.turns(session_id) == before
        assert await ledger.find_turn(session_id, "third") is None
        with pytest.raises(AlreadyExists):
            await ledger.begin_turn(session_id, epoch + 2, 11, NewTurn("fourth", (1,)))

    @pytest.mark.parametrize("end", [None, FinishReason.CANCELLED, FinishReason.FAILED])
    async def test_a_turn_that_had_not_ended_is_not_gone_on_with_after_such_a_prompt(
        self, ledger: Ledger, end: FinishReason | None
    ) -> None:
        session_id, epoch = await two_turns(ledger)
        await ledger.begin_turn(session_id, epoch, 11, NewTurn("third", (21,)))
        await ledger.append(session_id, epoch, 12, generated(22, 23))
        if end is not None:
            await ledger.finish_turn(session_id, epoch, 2, end)
        await ledger.begin_turn(session_id, epoch, 14, NewTurn("fourth", (30,), start_position=13))
        await ledger.rewind(session_id, epoch + 1, 14, 13)
        third = (await ledger.turns(session_id))[2]
        assert (third.finish_reason, third.is_cut) == (FinishReason.CANCELLED, True)
        assert await ledger.turn_tokens(session_id, 2) == generated(22, 23)

    @pytest.mark.parametrize("seed", range(6))
    async def test_any_writes_leave_what_plain_lists_hold(self, ledger: Ledger, seed: int) -> None:
        drawn = random.Random(seed)
        session_id = (await ledger.create_session("", "model")).session_id
        epoch, plain = (await ledger.take_over(session_id)).epoch, PlainSession()
        for number in range(24):
            length = len(plain.tokens)
            position = drawn.choice((length, drawn.randint(0, length)))
            match drawn.choice(("begin", "begin", "append", "append", "rewind", "fork", "take")):
                case "begin":
                    chat = drawn.choice((None, "[]"))
                    told = drawn.choice((None, "told")) if plain.turns else None
                    new = tuple(range(100 * number, 100 * number + drawn.randint(1, 4)))
                    plain.begin(PlainTurn(position, new, chat=chat), told)
                    turn = NewTurn(str(number), new, "{}", position, chat, told)
                    record = await ledger.begin_turn(session_id, epoch, length, turn)
                    epoch += bool(record.rewound_tokens)
                case "append" if plain.turns and not plain.turns[-1].is_cut:
                    new = tuple(range(100 * number, 100 * number + drawn.randint(1, 4)))
                    if not plain.turns[-1].has_ended:
                        plain.generate(new)
                        await ledger.append(session_id, epoch, length, generated(*new))
                    if drawn.random() < 0.5:
                        plain.turns[-1] = replace(plain.turns[-1], has_ended=True)
                        index = len(plain.turns) - 1
                        await ledger.finish_turn(session_id, epoch, index, FinishReason.LENGTH)
                case "rewind":
                    plain.rewind(position)
                    epoch = (await ledger.rewind(session_id, epoch, length, position)).epoch
                case "take" if plain.turns:
                    index = drawn.randrange(len(plain.turns))
                    plain.take_back(index)
                    record = await ledger.take_back(session_id, epoch, length, index)
                    epoch = record.epoch
                case "fork":
                    copy = await ledger.fork(session_id, "", position)
                    await assert_same(ledger, copy.session_id, plain.fork(position))
            await assert_same(ledger, session_id, plain)
