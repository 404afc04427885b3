"""Chat templates: messages in, the text that the model was trained to read out.

Owns the sandbox in which a model's Jinja2 template runs, and the marking of what users wrote. Must
not know tokens, sessions or the network.

Messages are data: they are never parsed as a template, and the text of a control token inside one
comes out as a quoted span, which the tokenizer turns into ordinary tokens. A template is as trusted
as the model it came with, but may be broken: loops, calls and output are bounded.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from outrider_server.speculation.errors import InvalidRequest

from .messages import ChatContext, ChatMessage
from .tokenizer import RenderedText

MAX_STEPS = 200_000
MAX_OUTPUT_CHARACTERS = 8 * 2**20
MAX_REFUSAL_CHARACTERS = 200
STEPS = "outrider_steps"
FIRST_PRIVATE_CHARACTER = 0xF0000


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
                self._template = _compile(source, now)
            except Exception:  # whatever is wrong with it, the template is unusable
                self._problem = "the model's chat template is broken"

    def render(
        self,
        messages: Sequence[ChatMessage],
        context: ChatContext | None = None,
        *,
        control_texts: Sequence[str] = (),
        generation_prompt: bool = True,
    ) -> RenderedText:
        """Renders the messages; `control_texts` in them and in the context become quoted spans.

        Raises InvalidRequest for field "chat" when the template is missing, refuses the messages or
        fails.
        """
        if self._template is None:
            raise InvalidRequest("chat", f"{self._problem}; send text instead")
        if not messages:
            raise InvalidRequest("chat", "chat must have at least one message")
        context = context or ChatContext()
        asked = {
            "messages": [_read_by_templates(message) for message in messages],
            "tools": list(context.tools) or None,
            "documents": list(context.documents) or None,
            "options": dict(context.options),
        }
        marks = _Marks(tuple(control_texts), asked)
        marked = marks.put(asked)
        variables = {
            **{name: token for name, token in self._tokens.items() if token},
            **marked.pop("options"),
            **marked,
            "add_generation_prompt": generation_prompt,
            STEPS: itertools.count(1),
        }
        return marks.take(_run(self._template, variables))


class _Refusal(jinja2.TemplateError):
    """The template called raise_exception; its sentence is meant for whoever wrote the messages."""


class _Exceeded(jinja2.TemplateError):
    """The template ran or wrote too much."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """Counts calls, so that macros that call each other for ever are stopped."""

    # The parameters are named as in the base class, so that no keyword argument collides with them.
    def call(
        __self,  # noqa: N805
        __context: Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        _spend(__context)
        return super().call(__context, __obj, *args, **kwargs)


class _Generation(Extension):
    """`{% generation %}` marks replies for training; here it only shows its body."""

    tags = {"generation"}  # noqa: RUF012  # an attribute of the base class

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Marks:
    """Two characters that no message holds, put around the control texts in them.

    Marking only these leaves templates free to trim, split and compare what users wrote.
    """

    def __init__(self, control_texts: tuple[str, ...], asked: object) -> None:
        self._control_texts = control_texts
        self._control = _any_of(control_texts)
        used = set(json.dumps(asked, ensure_ascii=False))
        private = map(chr, itertools.count(FIRST_PRIVATE_CHARACTER))
        free = (character for character in private if character not in used)
        self._open, self._close = next(free), next(free)

    def put(self, asked: Any) -> Any:
        """Marks the control texts in what a user wrote."""
        if isinstance(asked, dict):
            return {name: self.put(value) for name, value in asked.items()}
        if isinstance(asked, list):
            return [self.put(value) for value in asked]
        if not isinstance(asked, str):
            return asked
        return self._control.sub(f"{self._open}\\g<0>{self._close}", asked)

    def take(self, marked: str) -> RenderedText:
        """Removes the marks and says where they were."""
        pieces = re.split(f"([{self._open}{self._close}])", marked)
        text = "".join(pieces[::2])
        positions = itertools.accumulate(map(len, pieces[:-1:2]))
        opens = (mark == self._open for mark in pieces[1::2])
        marks = list(zip(positions, opens, strict=True))
        quoted: list[tuple[int, int]] = []
        for start, end in self._spans(text, marks):
            if quoted and start < quoted[-1][1]:
                quoted[-1] = (min(start, quoted[-1][0]), max(end, quoted[-1][1]))
            elif start < end:
                quoted.append((start, end))
        return RenderedText(text, tuple(quoted))

    def _spans(self, text: str, marks: Sequence[tuple[int, bool]]) -> Iterator[tuple[int, int]]:
        """A template that cuts a message may lose one mark of two; the other finds the text."""
        opened: int | None = None
        for at, opens in [*marks, (len(text), True)]:
            if opened is not None and not opens:
                yield opened, at
            elif not opens:
                ends = (len(end) for end in self._control_texts if text.endswith(end, 0, at))
                yield at - max(ends, default=0), at
            elif opened is not None and (match := self._control.match(text, opened)):
                yield match.span()
            opened = at if opens else None


def _read_by_templates(message: ChatMessage) -> dict[str, Any]:
    read = message.as_json()
    if isinstance(message.content, tuple):
        read["content"] = "".join(message.content)
    if message.reasoning_content is not None:
        read["thinking"] = message.reasoning_content  # its name in templates of gpt-oss
    return read


@functools.lru_cache(maxsize=16)
def _any_of(texts: tuple[str, ...]) -> re.Pattern[str]:
    longest_first = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")


def _compile(source: str, now: Callable[[], datetime]) -> jinja2.Template:
    """Compiles as transformers does, with every loop counted."""
    environment = _Sandbox(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.filters[STEPS] = _counted
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: now().strftime(pattern)
    tree = environment.parse(source)
    for loop in list(tree.find_all(nodes.For)):
        loop.iter = nodes.Filter(loop.iter, STEPS, [], [], None, None, lineno=loop.lineno)
    return environment.from_string(tree)


def _run(template: jinja2.Template, variables: dict[str, Any]) -> str:
    pieces: list[str] = []
    length = 0
    try:
        for piece in template.generate(variables):
            length += len(piece)
            if length > MAX_OUTPUT_CHARACTERS:
                raise _Exceeded
            pieces.append(piece)
    except _Refusal as refusal:
        reason = " ".join(str(refusal).split())[:MAX_REFUSAL_CHARACTERS]
        raise InvalidRequest(
            "chat", f"the model's chat template refuses these messages: {reason}"
        ) from None
    except _Exceeded:
        raise InvalidRequest(
            "chat", "the model's chat template makes too much of these messages"
        ) from None
    except Exception:  # a template can fail in any way; none of it is the caller's to read
        raise InvalidRequest(
            "chat", "the model's chat template cannot render these messages"
        ) from None
    return "".join(pieces)


def _spend(context: Context) -> None:
    if next(context[STEPS]) > MAX_STEPS:
        raise _Exceeded


@jinja2.pass_context
def _counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend(context)
        yield item


def _raise_exception(message: object) -> None:
    raise _Refusal(str(message))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: Jinja's own filter escapes what HTML would misread."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
