"""What a conversation asks of the target, text by text; who runs the target sends back what it wrote.

A dialogue is a generator: it yields what is wanted, is sent the tokens, and returns the replies. It knows no
engine, so any number of them can be written at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass

from ..core.errors import InvalidRequest
from ..core.types import Draw, SamplingParams
from ..session.text.encoded_input import TextInput, chat_tokens, plain_tokens
from ..session.text.messages import ChatContext, ChatMessage
from ..session.text.model import ServedModel
from .prompts import ASSISTANT, Prompt
from .reply import Reply
from .settings import SMALLEST_REPLY_TOKENS

CHAT = ChatContext()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A text that the target shall write."""

    prompt: tuple[int, ...]
    draw: Draw
    ends: frozenset[int]
    """Tokens that end it; the last one belongs to it."""
    most_tokens: int


Dialogue = Generator[Wanted, tuple[int, ...], tuple[Reply, ...]]


@dataclass(frozen=True, slots=True)
class ReplyRules:
    """What all replies of a run have in common."""

    model: ServedModel
    context_tokens: int
    reply_tokens: int
    seed: int
    is_chat: bool
    """Whether the target has a chat template; without one texts follow each other as they are."""

    def room(self, prompt: tuple[int, ...]) -> int:
        """The most tokens that a reply may have."""
        return min(self.reply_tokens, self.context_tokens - len(prompt))

    def has_room(self, prompt: tuple[int, ...]) -> bool:
        """Whether a reply is worth its while."""
        return self.room(prompt) >= SMALLEST_REPLY_TOKENS

    @property
    def no_room(self) -> str:
        """Says so."""
        return (
            f"the context of {self.context_tokens} tokens has no room for a prompt and a reply of "
            f"{SMALLEST_REPLY_TOKENS}; take a longer one, or shorter prompts"
        )

    def wanted(
        self, prompt: tuple[int, ...], temperature: float, conversation: int, text: int
    ) -> Wanted:
        """A text of a conversation: its noise is that of no other."""
        draw = Draw(
            SamplingParams(temperature=temperature),
            _seed(self.seed, conversation, text),
            generated_from=len(prompt),
        )
        ends = frozenset(self.model.description.end_token_ids)
        return Wanted(prompt, draw, ends, self.room(prompt))


def converse(prompt: Prompt, rules: ReplyRules, temperature: float, conversation: int) -> Dialogue:
    """The target's replies in one conversation, as many as its context holds.

    Raises InvalidRequest where the chat template refuses the messages.
    """
    messages: list[ChatMessage] = []
    replies: list[Reply] = []
    for said in prompt.said:
        messages += said
        tokens = _tokens(messages, rules)
        if not rules.has_room(tokens):
            break
        written = yield rules.wanted(tokens, temperature, conversation, len(replies))
        replies.append(Reply(prompt.source, tokens, written, temperature))
        text = rules.model.tokenizer.decode(written, special=False)
        messages.append(ChatMessage(ASSISTANT, text))
    return tuple(replies)


def _tokens(messages: list[ChatMessage], rules: ReplyRules) -> tuple[int, ...]:
    if rules.is_chat:
        return chat_tokens(messages, CHAT, rules.model, begin=True)
    text = "".join("".join(message.texts) for message in messages)
    return plain_tokens(TextInput(text), rules.model, begin=True)


def first_refusal(prompts: Iterable[Prompt], rules: ReplyRules) -> str:
    """Why no prompt can be answered; empty where one can."""
    reason = ""
    for prompt in prompts:
        try:
            if rules.has_room(_tokens(list(prompt.said[0]), rules)):
                return ""
        except InvalidRequest as refused:
            reason = reason or str(refused)
    return reason or rules.no_room


def _seed(seed: int, conversation: int, text: int) -> int:
    digest = hashlib.blake2b(f"{seed} {conversation} {text}".encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
