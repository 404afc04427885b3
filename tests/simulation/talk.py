"""What a session has to hold: its tokens and its conversation, kept as plain lists.

Owns the template of the simulation, and what a chat makes of all that was said before. Written anew, with
nothing of the product: it is what the product is held against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from outrider_server.core.types import FinishReason

from .model import CONTEXT, END_TOKEN, LETTERS, reference

FORGOTTEN = "e"
"""Earlier replies are read from behind the last of these, as models forget what they thought."""
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ message.content }}"
    "{% else %}{{ message.content.split('" + FORGOTTEN + "')[-1] }}{% endif %} {% endfor %}"
)
Message = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Intent:
    """What a client wants of a turn. A prompt that is said in a chat is read with all that was said before;
    any other follows what the session holds."""

    prompt: tuple[int, ...]
    seed: int
    stop: tuple[str, ...]
    most: int
    chats: bool

    @property
    def text(self) -> str:
        """The prompt in letters."""
        return "".join(LETTERS[token - 1] for token in self.prompt)


@dataclass(frozen=True, slots=True)
class PlainTurn:
    """A turn, and all that its session held before it."""

    intent: Intent
    found: tuple[int, ...]
    start: int
    generated_from: int
    reply: tuple[int, ...] = ()
    said: bool = True
    """False where a cut left less than all of its prompt."""

    def until(self, position: int) -> PlainTurn:
        """What is left of it before a position."""
        return replace(
            self,
            generated_from=min(self.generated_from, position),
            reply=self.reply[: max(0, position - self.generated_from)],
            said=position >= self.generated_from,
        )

    def messages(self) -> list[Message]:
        """What it said and was replied."""
        return [("user", self.intent.text), ("assistant", self._shown())] if self.said else []

    def _shown(self) -> str:
        text, stops = "", self.intent.stop
        for token in self.reply:
            if token == END_TOKEN:
                return text
            text += LETTERS[token - 1]
            ends = [end for end in stops if text.endswith(end)]
            if ends:
                return text.removesuffix(max(ends, key=len))
        if len(self.reply) == min(self.intent.most, CONTEXT - self.generated_from):
            return text
        begun = [end[:length] for end in stops for length in range(1, len(end))]
        return text.removesuffix(max(filter(text.endswith, begun), key=len, default=""))


@dataclass(slots=True)
class PlainSession:
    """A session as it has to be."""

    tokens: list[int] = field(default_factory=list)
    turns: list[PlainTurn] = field(default_factory=list)

    def begin(self, intent: Intent) -> PlainTurn:
        """A turn is begun."""
        kept, prompt = len(self.tokens), list(intent.prompt)
        if intent.chats:
            chat = self._chat()
            first = chat[0].start if chat else kept
            prompt = _rendered([*_messages(chat), ("user", intent.text)])
            kept = first + _agreed(self.tokens[first:], prompt[:-1])
            prompt = prompt[kept - first :]
        turn = PlainTurn(intent, tuple(self.tokens), kept, kept + len(prompt))
        self.turns.append(turn)
        self.tokens[kept:] = prompt
        return turn

    def generated(self, reply: Sequence[int]) -> None:
        """The last turn has generated so much."""
        turn = self.turns[-1] = replace(self.turns[-1], reply=tuple(reply))
        self.tokens[turn.generated_from :] = reply

    def rewind(self, position: int) -> None:
        """What stands from a position on is cut off."""
        begun = [index for index, turn in enumerate(self.turns) if turn.start < position]
        kept = begun[-1] + 1 if begun else 0
        end = min((turn.start for turn in self.turns[kept:]), default=len(self.tokens))
        del self.turns[kept:], self.tokens[position:]
        if kept and position < end:
            self.turns[-1] = self.turns[-1].until(position)

    def take_back(self) -> None:
        """The last turn was never begun."""
        self.tokens = list(self.turns.pop().found)

    def copy(self, position: int) -> PlainSession:
        """A copy of the first tokens."""
        copy = PlainSession(list(self.tokens), list(self.turns))
        copy.rewind(position)
        return copy

    def messages(self) -> list[Message]:
        """The conversation."""
        return _messages(self._chat())

    def due(self) -> tuple[tuple[int, ...], FinishReason]:
        """What the target alone writes in the last turn, and why it ends there."""
        intent = self.turns[-1].intent
        return reference(intent.seed, self.tokens, intent.stop, intent.most)

    def _chat(self) -> list[PlainTurn]:
        """The turns since the last one that was no chat."""
        others = [index for index, turn in enumerate(self.turns) if not turn.intent.chats]
        return self.turns[others[-1] + 1 :] if others else self.turns


def _messages(turns: Sequence[PlainTurn]) -> list[Message]:
    return [message for turn in turns for message in turn.messages()]


def _rendered(messages: Sequence[Message]) -> list[int]:
    written = (
        text if role == "user" else text.rpartition(FORGOTTEN)[-1] for role, text in messages
    )
    return [1 + LETTERS.index(letter) for text in written for letter in f"{text} "]


def _agreed(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))
