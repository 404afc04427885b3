"""Where a model's Jinja2 template runs: as in transformers, bounded, and with authors.

Owns the environment of a template: its filters and functions, its limits, and that every operation
on texts keeps their authors. Must not know messages or tokens.

A template makes texts in a closed set of ways, and each of them is followed here: operators, `~`,
methods, filters, and what stands in blocks, macros and the output. Slices and loops are the text's
own. Calls that hand on what they are given need nothing.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import filters, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from .authors import USER, Authored, call_method, follow, join, to_json, written

MAX_STEPS = 200_000
MAX_OUTPUT_CHARACTERS = 8 * 2**20
STEPS = "outrider_steps"
CONCATENATED = "outrider_concatenated"

_OF_A_LOOP = ("_loop_vars", "_block_vars")
"""What Jinja2 tells every call about where it stands; a context takes it out again."""

_HANDING_ON = frozenset(
    ("attr", "d", "default", "first", "last", "max", "min", "random", "sum", "tojson")
)
"""Filters that give one of their values as it is, or know authors themselves."""


class Refusal(jinja2.TemplateError):
    """The template called raise_exception; its sentence is meant for whoever wrote the messages."""


class Exceeded(jinja2.TemplateError):
    """The template ran or wrote too much."""


def compile_template(source: str, now: Callable[[], datetime]) -> jinja2.Template:
    """Compiles as transformers does. Raises jinja2's errors."""
    environment = _Sandbox(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, loopcontrols],
        finalize=_text,
    )
    for name, given in environment.filters.items():
        if name not in _HANDING_ON:
            environment.filters[name] = _following(given)
    environment.filters |= {
        "tojson": _tojson,
        "trim": _trim,
        "replace": _replace,
        "join": _join,
        STEPS: _counted,
        CONCATENATED: _concatenated,
    }
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda style: follow(now().strftime, style)
    return environment.from_string(_Hooks().visit(environment.parse(source)))


def run_template(template: jinja2.Template, variables: Mapping[str, Any]) -> str:
    """What the template writes. Raises Refusal, Exceeded, or whatever a template fails with."""
    pieces: list[str] = []
    length = 0
    for piece in template.generate({**variables, STEPS: itertools.count(1)}):
        length += len(piece)
        if length > MAX_OUTPUT_CHARACTERS:
            raise Exceeded
        pieces.append(piece)
    return join(pieces)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Counts calls, so that macros that call each other for ever are stopped, and follows authors."""

    intercepted_binops = frozenset(("+", "%", "*"))
    concat = staticmethod(join)  # the base class has "".join

    # The parameters are named as in the base class, so that no keyword argument collides with them.
    def call(
        __self,  # noqa: N805
        __context: Context,
        __obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        _spend(__context)
        method = getattr(__obj, "__wrapped__", __obj)  # formatting has a guard of the sandbox
        owner = getattr(method, "__self__", None)
        run = functools.partial(super().call, __context)
        if isinstance(owner, str):
            for name in _OF_A_LOOP:
                kwargs.pop(name, None)
            find = functools.partial(__self._bound, run, method.__name__)
            return call_method(owner, method.__name__, find, *args, **kwargs)
        made = run(__obj, *args, **kwargs)
        return written(made, USER) if isinstance(owner, bytes) else made

    def _bound(self, run: Callable[..., Any], name: str, text: str) -> Callable[..., Any]:
        """A method of a text, called through the sandbox."""
        return functools.partial(run, self.getattr(text, name))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Follows an operator."""
        if operator == "+" and {type(left), type(right)} <= {str, Authored}:
            return join((left, right))
        return follow(self.binop_table[operator], left, right)


class _Generation(Extension):
    """`{% generation %}` marks replies for training; here it only shows its body."""

    tags = {"generation"}  # noqa: RUF012  # an attribute of the base class

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        block = nodes.CallBlock(self.call_method("_show"), [], [], body)
        return block.set_lineno(line)

    def _show(self, caller: Callable[[], str]) -> str:
        return caller()


class _Hooks(NodeTransformer):
    """Counts the steps of loops, and lets `~` go through a filter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802  # the base class's names
        self.generic_visit(node)
        node.iter = nodes.Filter(node.iter, STEPS, [], [], None, None, lineno=node.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        pieces = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(pieces, CONCATENATED, [], [], None, None, lineno=node.lineno)


def _following(given: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that follows authors."""
    passed = 1 if hasattr(given, "jinja_pass_arg") else 0  # a context of Jinja's comes first

    @functools.wraps(given)
    def filtered(*values: Any, **named: Any) -> Any:
        return follow(functools.partial(given, *values[:passed]), *values[passed:], **named)

    return filtered


def _text(value: Any) -> str:
    """What `{{ }}` shows of a value."""
    return value if type(value) in (str, Authored) else str(follow(str, value))


def _concatenated(values: Iterable[Any]) -> str:
    return join(map(_text, values))


def _trim(value: Any, chars: str | None = None) -> str:
    text = value if isinstance(value, str) else _text(value)
    trimmed: str = call_method(text, "strip", lambda plain: plain.strip, chars)
    return trimmed


def _replace(value: Any, old: Any, new: Any, count: int | None = None) -> str:
    replaced: str = call_method(
        _text(value),
        "replace",
        lambda text: text.replace,
        _text(old),
        _text(new),
        -1 if count is None else count,
    )
    return replaced


@jinja2.pass_eval_context
def _join(
    context: nodes.EvalContext, value: Iterable[Any], d: Any = "", attribute: Any = None
) -> str:
    if attribute is not None:
        value = map(filters.make_attrgetter(context.environment, attribute), value)
    return join(map(_text, value), _text(d))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as it is: Jinja's own filter escapes what HTML would misread."""
    return to_json(
        value,
        sort_keys=sort_keys,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
    )


def _spend(context: Context) -> None:
    if next(context[STEPS]) > MAX_STEPS:
        raise Exceeded


@jinja2.pass_context
def _counted(context: Context, items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend(context)
        yield item


def _raise_exception(message: object) -> None:
    raise Refusal(str(message))
