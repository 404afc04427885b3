"""A session's conversation: what its chat turns said and replied, and what a new turn makes of all of it.

Owns which turns are one conversation, the text of their replies, and which of the session's tokens a new turn
keeps. Must not know the ledger's calls, the target or the wire.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..core.errors import InvalidRequest
from .ledger.ledger import LedgerToken, NewTurn, TurnRecord
from .requests import TurnInput, TurnRequest, recorded_chat, recorded_request
from .text.encoded_input import chat_tokens, plain_tokens
from .text.messages import ChatInput, ChatMessage
from .text.model import ServedModel
from .text.turn_text import TurnText


@dataclass(frozen=True, slots=True)
class Held:
    """What the ledger holds of a session: its tokens, its turns, and what the last of these generated."""

    tokens: Sequence[int]
    turns: Sequence[TurnRecord]
    last_generated: Sequence[LedgerToken]

    @property
    def size(self) -> int:
        """About how many characters a chat reads anew; 0 where another input only follows."""
        return 4 * len(self.tokens) if self.turns else 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an input makes of a session."""

    kept: int
    """Number of the session's tokens that stay."""
    tokens: tuple[int, ...]
    """What follows them: at least one."""
    last_reply: str | None = None
    """What the turn before replied, where the ledger does not know it yet."""

    def new_turn(self, request: TurnRequest, arithmetic: str = "") -> NewTurn:
        """What the ledger is to begin, on a target of this arithmetic."""
        return NewTurn(
            request.request_id,
            self.tokens,
            request.parameters(arithmetic),
            self.kept,
            request.chat(),
            self.last_reply,
        )


def prompt_for(asked: TurnInput, held: Held, model: ServedModel) -> Prompt:
    """What a turn's input makes of the session.

    Text and token ids follow what the session holds. The prompt of a chat is what the template makes of the
    whole conversation; the session's tokens stay up to where the two differ. Raises InvalidRequest when the
    template refuses the conversation, or the context cannot hold it and a token more.
    """
    if isinstance(asked, ChatInput):
        prompt = _chat_prompt(asked, held, model)
    else:
        length = len(held.tokens)
        prompt = Prompt(length, plain_tokens(asked, model, begin=length == 0))
    check_known(held.tokens[: prompt.kept], model)
    limit = model.description.max_context_tokens
    if prompt.kept + len(prompt.tokens) >= limit:
        raise InvalidRequest(
            "input",
            f"the input has {len(prompt.tokens)} tokens and the session {prompt.kept} before them;"
            f" together they must be less than the context of {limit}",
        )
    return prompt


def check_known(held: Sequence[int], model: ServedModel) -> None:
    """Raises InvalidRequest for a session with a token that the model lacks: no turn can read it."""
    at = model.first_unknown(held)
    if at is not None:
        raise InvalidRequest(
            "session_id",
            f"the session holds token id {held[at]} at position {at}, which the model lacks; rewind it "
            f"to position {at} or before",
        )


def messages_of(held: Held, model: ServedModel) -> list[ChatMessage]:
    """The conversation, with its replies."""
    turns = _conversation(held.turns)
    return list(_messages(turns, _last_reply(turns, held, model)))


def turn_text(
    record: TurnRecord, context: Sequence[int], model: ServedModel, written: int = 0
) -> TurnText:
    """The text of a turn after `context`, and where it ends. A reply in a chat is a text of its own.

    `written` tokens are recorded: they had room, whatever context the model is served with now.
    """
    asked, description = recorded_request(record), model.description
    room = description.max_context_tokens - record.generated_from
    return TurnText(
        model.tokenizer,
        context if record.chat is None else (),
        stop=asked.stop,
        end_tokens=asked.end_tokens(description.end_token_ids),
        max_new_tokens=asked.max_new_tokens,
        room=max(room, written, 1),
    )


def _chat_prompt(asked: ChatInput, held: Held, model: ServedModel) -> Prompt:
    turns = _conversation(held.turns)
    start = turns[0].start_position if turns else len(held.tokens)
    last_reply = _last_reply(turns, held, model)
    messages = [*_messages(turns, last_reply), *asked.messages]
    wanted = chat_tokens(messages, asked.context, model, begin=start == 0)
    # The last token is the turn's own: a prompt without one would have nothing to begin with.
    kept = _agreed(held.tokens[start:], wanted[:-1])
    return Prompt(start + kept, wanted[kept:], last_reply)


def _conversation(turns: Sequence[TurnRecord]) -> Sequence[TurnRecord]:
    """The last turns, as far back as all were chats: other input has no messages and ends a conversation."""
    others = [turn.turn_index for turn in turns if turn.chat is None]
    return turns[others[-1] + 1 :] if others else turns


def _messages(turns: Sequence[TurnRecord], last_reply: str | None) -> Iterator[ChatMessage]:
    for turn in turns:
        chat = recorded_chat(turn)
        if chat is not None:
            yield from chat.messages
            reply = last_reply if turn.reply is None else turn.reply
            assert reply is not None, "each turn but the last was told by the next"
            yield ChatMessage("assistant", reply)


def _last_reply(turns: Sequence[TurnRecord], held: Held, model: ServedModel) -> str | None:
    """What was shown of the last turn, where that is not known yet."""
    if not turns or not turns[-1].chat or turns[-1].reply is not None:
        return None
    generated = [entry.token for entry in held.last_generated]
    text = turn_text(turns[-1], (), model, len(generated))
    return "".join(text.accept(generated).texts)


def _agreed(held: Sequence[int], wanted: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for index, (one, other) in enumerate(zip(held, wanted, strict=False)):
        if one != other:
            return index
    return min(len(held), len(wanted))
