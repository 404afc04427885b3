"""Prompts that the target makes itself, from where its chat template has a user's words begin.

The idea is that of Magpie (Xu et al., arXiv 2406.08464): a model that was trained on conversations writes
what users say as well as what it replies. A model without a template begins a text of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..core.errors import InvalidRequest, StartupError
from ..session.text.encoded_input import TextInput, plain_tokens
from ..session.text.messages import ChatMessage
from ..session.text.tokenizer import RenderedText
from .dialogue import CHAT, Dialogue, ReplyRules, converse
from .prompts import Prompt
from .reply import Reply
from .settings import SMALLEST_REPLY_TOKENS

SOURCE = "the target's own prompts"
PROBE = "outrider"
USER_TEMPERATURE = 1.0
USER_TOKENS = 256
"""The longest prompt; one that is cut off there is left out."""
BEGINNING_TOKENS = 32
"""Tokens that a model without a template writes before what counts as its reply."""
SMALLEST_TEXT = "\n"
"""What such a model goes on from where its tokenizer begins a text with no token."""


@dataclass(frozen=True, slots=True)
class UserTurn:
    """How a chat template wraps what a user says."""

    before: tuple[int, ...]
    ends: frozenset[int]
    """Tokens that end it: those that end any text, and the one that the template writes behind it."""


def user_turn(rules: ReplyRules) -> UserTurn:
    """The template around a user's first words. Raises StartupError where these cannot be found in it."""
    model = rules.model
    try:
        rendered = model.chat.render([ChatMessage("user", PROBE)], CHAT)
    except InvalidRequest as refused:
        raise StartupError(f"{refused}; give prompts of your own") from refused
    before, found, after = rendered.text.partition(PROBE)
    if not found:
        raise StartupError("the chat template shows no words of users; give prompts of your own")
    tokenizer, ends = model.tokenizer, frozenset(model.description.end_token_ids)
    behind = tokenizer.encode_rendered(RenderedText(after), begin=False)[:1]
    if behind and tokenizer.is_silent(behind[0]):
        ends |= frozenset(behind)
    return UserTurn(tuple(tokenizer.encode_rendered(RenderedText(before), begin=True)), ends)


def ask_itself(
    turn: UserTurn, rules: ReplyRules, temperature: float, conversation: int
) -> Dialogue:
    """A prompt of the target's own, and its reply to it; no reply where it says nothing of use.

    Raises InvalidRequest where the chat template refuses what it says.
    """
    wanted = rules.wanted(turn.before, USER_TEMPERATURE, conversation, text=-1)
    room = rules.context_tokens - len(turn.before) - SMALLEST_REPLY_TOKENS
    written = yield replace(wanted, ends=turn.ends, most_tokens=min(USER_TOKENS, room))
    text = rules.model.tokenizer.decode(written, special=False).strip()
    if not text or written[-1] not in turn.ends:
        return ()
    prompt = Prompt(SOURCE, ((ChatMessage("user", text),),))
    return (yield from converse(prompt, rules, temperature, conversation))


def begin_text(rules: ReplyRules, temperature: float, conversation: int) -> Dialogue:
    """A text that a model without a chat template begins, and how it goes on."""
    start = beginning(rules)
    wanted = rules.wanted(start, USER_TEMPERATURE, conversation, text=-1)
    begun = yield replace(wanted, most_tokens=min(BEGINNING_TOKENS, wanted.most_tokens))
    prompt = start + begun
    if begun[-1] in wanted.ends or not rules.has_room(prompt):
        return ()
    written = yield rules.wanted(prompt, temperature, conversation, text=0)
    return (Reply(SOURCE, prompt, written, temperature),)


def check_room(rules: ReplyRules) -> None:
    """Raises StartupError where the context has none for a prompt and a reply."""
    begun = user_turn(rules).before if rules.is_chat else beginning(rules)
    if not rules.has_room(begun):
        raise StartupError(rules.no_room)


def beginning(rules: ReplyRules) -> tuple[int, ...]:
    """What any text of a model without a template begins with."""
    model = rules.model
    begin, ends = model.tokenizer.begin_token_id, model.description.end_token_ids
    if begin is not None:
        return (begin,)
    return ends[:1] or plain_tokens(TextInput(SMALLEST_TEXT), model, begin=True)
