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

from outrider_server.speculation.errors import InvalidRequest

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
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`source` may be empty or broken: the model can still be used with plain text."""
        self._tokens = {"bos_token": begin_token, "eos_token": end_token}
        self._template: jinja2.Template | None = None
        self._problem = "the model has no chat template"
        if source:
            try:
                self._template = compile_template(source, now)
            except Exception:  # whatever is wrong with it, the template is unusable
                self._problem = "the model's chat template is broken"

    def render(
        self,
        messages: Sequence[ChatMessage],
        context: ChatContext | None = None,
        *,
        generation_prompt: bool = True,
    ) -> RenderedText:
        """Renders the messages.

        Raises InvalidRequest for field "chat" when the template is missing, refuses the messages or
        fails.
        """
        if self._template is None:
            raise InvalidRequest("chat", f"{self._problem}; send text instead")
        if not messages:
            raise InvalidRequest("chat", "chat must have at least one message")
        parts = any(isinstance(message.content, tuple) for message in messages)
        readable = [_readable(entry, in_parts=parts and self._reads_parts) for entry in messages]
        variables = self._variables(readable, context or ChatContext(), generation_prompt)
        text = _rendered(self._template, variables)
        shadow = shadow_of(text)
        return RenderedText(str.__str__(text), spans_of(shadow, USER), spans_of(shadow, ASSISTANT))

    def _variables(
        self, messages: list[dict[str, Any]], context: ChatContext, generation_prompt: bool
    ) -> dict[str, Any]:
        return {
            **{name: token for name, token in self._tokens.items() if token},
            **{name: written(value, USER) for name, value in context.options.items()},
            "messages": messages,
            "tools": written(list(context.tools), USER) or None,
            "documents": written(list(context.documents), USER) or None,
            "add_generation_prompt": generation_prompt,
        }

    @functools.cached_property
    def _reads_parts(self) -> bool:
        """Whether the template shows the text of a part; others fail, or show the part as Python does."""
        probe = _readable(ChatMessage("user", (PROBE,)), in_parts=True)
        try:
            shown = _rendered(self._template, self._variables([probe], ChatContext(), True))
        except InvalidRequest:
            return False
        return PROBE in shown and repr(PROBE) not in shown


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


def _rendered(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    try:
        return run_template(template, variables)
    except Refusal as refusal:
        reason = " ".join(str(refusal).split())[:MAX_REFUSAL_CHARACTERS]
        problem = f"the model's chat template refuses these messages: {reason}"
    except Exceeded:
        problem = "the model's chat template makes too much of these messages"
    except Exception:  # a template can fail in any way; none of it is the caller's to read
        problem = "the model's chat template cannot render these messages"
    raise InvalidRequest("chat", problem)
