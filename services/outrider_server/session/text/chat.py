"""Chat templates: messages in, the text that the model was trained to read out.

Owns which variables a template reads, who counts as the author of which, and what a user is told when
it fails. Must not know tokens, sessions or the network.

Messages are data: they are never parsed as a template, and the rendered text says which of its spans
users and assistants wrote. A template is as trusted as the model it came with, but may be broken:
the sandbox bounds it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import jinja2

from outrider_server.core.errors import InvalidRequest

from .authors import ASSISTANT, USER, shadow_of, spans_of, written
from .messages import ChatContext, ChatMessage
from .sandbox import Exceeded, Refusal, compile_template, run_template
from .tokenizer import RenderedText

MAX_REFUSAL_CHARACTERS = 200
PROBE = "outrider"


class ChatTemplate:
    """A model's chat template, ready to render."""

    def __init__(
        self,
        source: str,
        begin_token: str = "",
        end_token: str = "",
        *,
        pad_token: str = "",
        unknown_token: str = "",
        tool_source: str = "",
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """A source may be empty or broken: the model can still be used with plain text.

        `tool_source` is for chats with tools; where it is empty, `source` is for all.
        """
        tokens = {
            "bos_token": begin_token,
            "eos_token": end_token,
            "pad_token": pad_token,
            "unk_token": unknown_token,
        }
        self._template = _Template(source, tokens, now)
        self._tool_template = _Template(tool_source, tokens, now) if tool_source else self._template

    def render(
        self, messages: Sequence[ChatMessage], context: ChatContext | None = None
    ) -> RenderedText:
        """Renders the messages, and what the assistant's reply begins with.

        Raises InvalidRequest for field "chat" when the template is missing, refuses the messages or
        fails.
        """
        if not messages:
            raise InvalidRequest("chat", "chat must have at least one message")
        context = context or ChatContext()
        template = self._tool_template if context.tools else self._template
        parts = any(isinstance(message.content, tuple) for message in messages)
        readable = [_readable(entry, in_parts=parts and template.reads_parts) for entry in messages]
        text = template.run(readable, context)
        shadow = shadow_of(text)
        return RenderedText(str.__str__(text), spans_of(shadow, USER), spans_of(shadow, ASSISTANT))


class _Template:
    """One of a model's templates."""

    def __init__(self, source: str, tokens: Mapping[str, str], now: Callable[[], datetime]) -> None:
        self._tokens = {name: token for name, token in tokens.items() if token}
        self._compiled: jinja2.Template | None = None
        self._problem = "the model has no chat template"
        if source:
            try:
                self._compiled = compile_template(source, now)
            except Exception:  # whatever is wrong with it, the template is unusable
                self._problem = "the model's chat template is broken"

    @functools.cached_property
    def reads_parts(self) -> bool:
        """Whether it shows the text of a part; others fail, or show the part as Python does."""
        probe = _readable(ChatMessage("user", (PROBE,)), in_parts=True)
        try:
            shown = self.run([probe], ChatContext())
        except InvalidRequest:
            return False
        return PROBE in shown and repr(PROBE) not in shown

    def run(self, messages: list[dict[str, Any]], context: ChatContext) -> str:
        """The text, with authors. Raises InvalidRequest."""
        if self._compiled is None:
            raise InvalidRequest("chat", f"{self._problem}; send text instead")
        variables = {
            **self._tokens,
            **{name: written(value, USER) for name, value in context.options.items()},
            "messages": messages,
            "tools": written(list(context.tools), USER) or None,
            "documents": written(list(context.documents), USER) or None,
            "add_generation_prompt": True,
        }
        try:
            return run_template(self._compiled, variables)
        except Refusal as refusal:
            reason = " ".join(str(refusal).split())[:MAX_REFUSAL_CHARACTERS]
            problem = f"the model's chat template refuses these messages: {reason}"
        except Exceeded:
            problem = "the model's chat template makes too much of these messages"
        except Exception:  # a template can fail in any way; none of it is the caller's to read
            problem = "the model's chat template cannot render these messages"
        raise InvalidRequest("chat", problem)


def _readable(message: ChatMessage, *, in_parts: bool) -> dict[str, Any]:
    """The message as a template reads it. Its role is one of a few words, and the template's own."""
    read = message.as_json()
    if isinstance(message.content, tuple) and not in_parts:
        read["content"] = "".join(message.content)
    if message.reasoning_content is not None:
        read["thinking"] = message.reasoning_content  # its name in templates of gpt-oss
    author = ASSISTANT if message.role == "assistant" else USER
    authors = dict.fromkeys(("content", "reasoning_content", "thinking"), author)
    return {
        name: value if name == "role" else written(value, authors.get(name, USER))
        for name, value in read.items()
    }
