"""What an input is in tokens.

Owns what of an input cannot be read. Must not know the ledger, the network or what a session holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...core.errors import InvalidRequest
from .messages import ChatContext, ChatMessage
from .model import ServedModel


@dataclass(frozen=True, slots=True)
class TextInput:
    """Text, in which the texts of control tokens are these or, by default, ordinary text."""

    text: str
    parse_control_tokens: bool = False


def plain_tokens(
    asked: TextInput | tuple[int, ...], model: ServedModel, *, begin: bool
) -> tuple[int, ...]:
    """The tokens of an input that is no chat; `begin` says that it begins a session.

    Raises InvalidRequest when it has none, or one that the model lacks.
    """
    if isinstance(asked, tuple):
        return asked
    parse = asked.parse_control_tokens
    encoded = tuple(model.tokenizer.encode(asked.text, begin=begin, parse_control_tokens=parse))
    if not encoded:
        raise InvalidRequest("text", "the tokenizer makes no token of the text; send another")
    _check_known(encoded, model, "text")
    return encoded


def chat_tokens(
    messages: Sequence[ChatMessage], context: ChatContext, model: ServedModel, *, begin: bool
) -> tuple[int, ...]:
    """The tokens of a whole conversation; `begin` says that it begins a session.

    Raises InvalidRequest when the template refuses it or makes nothing of it, or of a token that the
    model lacks, or of a message that no context holds.
    """
    for message in messages:
        if message.role != "assistant":  # of which a template may leave out what it thought
            for text in message.texts:
                model.tokenizer.check_message(text)
    rendered = model.chat.render(messages, context)
    encoded = tuple(model.tokenizer.encode_rendered(rendered, begin=begin))
    if not encoded:
        raise InvalidRequest("chat", "the chat template rendered nothing; send other messages")
    _check_known(encoded, model, "chat")
    return encoded


def _check_known(tokens: tuple[int, ...], model: ServedModel, field: str) -> None:
    at = model.first_unknown(tokens)
    if at is not None:
        what = model.tokenizer.decode([tokens[at]], special=True)
        raise InvalidRequest(
            field,
            f"the tokenizer makes token id {tokens[at]} of {what!r} in the {field}, and the model has ids 0 "
            f"to {model.description.vocabulary_size - 1} only; leave it out",
        )
