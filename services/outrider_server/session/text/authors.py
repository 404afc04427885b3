"""Who wrote which character: texts that remember it through whatever a template does with them.

Owns the text with authors and what operations make of it. Must not know templates, messages or
tokens.

Beside its characters an authored text has a *shadow* of the same length, in which a stand-in takes
the place of every character of an author's; the rest is the template's. What an operation makes of
texts it also makes of their shadows, and where the two do not lie side by side, the result counts as
the user's from end to end: a control token of a template may then be spelled, but a user never
writes one. The characters are always those that the operation makes of plain texts.

White space has no author, so shadows break into words and lines where texts do. The stand-ins are
letters without case, so that nothing else happens to them either.
"""

from __future__ import annotations

import codecs
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

from markupsafe import Markup

USER, ASSISTANT = "\U00020000", "\U00020001"
_AUTHORS = frozenset((USER, ASSISTANT))
_RUNS = re.compile(f"{USER}+|{ASSISTANT}+|[^{USER}{ASSISTANT}]+")
_LETTER = re.compile(r"\S")
_LATIN_SHADOWS = {
    author: "".join(_LETTER.sub(author, chr(code)) for code in range(256)) for author in _AUTHORS
}
"""What each character of Latin-1 has in its place."""
PIECE = 1 << 15
"""Characters that a search goes through at once: it keeps all other threads waiting."""
_WITHOUT_TEXT = (int, float, range, type(None))


class Authored(str):
    """A text with authors."""

    __slots__ = ("_shadow",)
    _shadow: str

    def __new__(cls, text: str, shadow: str) -> Authored:
        authored = super().__new__(cls, text)
        authored._shadow = shadow
        return authored

    def __str__(self) -> str:
        return self

    def __iter__(self) -> Iterator[str]:
        return map(_character, super().__iter__(), self._shadow)

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        return Authored(super().__getitem__(key), self._shadow[key])


class _AuthoredMarkup(Markup):
    """A text that is safe in HTML, which nothing here is, made of one with authors. All of it counts as
    the user's, also what its methods make of it."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        return map(_character, super().__iter__(), shadow_of(self))


class _Key(str):
    """A key of a shadow: two keys of one object may have the same."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


def written(value: Any, author: str) -> Any:
    """The value with all its texts, keys included, as the author's."""
    if isinstance(value, str):
        return Authored(value, _shade(value, author))
    if isinstance(value, dict):
        return {written(name, author): written(entry, author) for name, entry in value.items()}
    if isinstance(value, list):
        return [written(entry, author) for entry in value]
    return value


def shadow_of(text: str) -> str:
    """The shadow of any text."""
    if isinstance(text, Authored):
        return text._shadow
    return _shade(text, USER) if isinstance(text, _AuthoredMarkup) else text


def spans_of(shadow: str, author: str) -> tuple[tuple[int, int], ...]:
    """Where the author's words are, in order and apart: white space alone parts no words."""
    words = re.compile(f"{author}(?:[{author}\\s]*{author})?")
    spans: list[tuple[int, int]] = []
    for at in range(0, len(shadow), PIECE):
        for word in words.finditer(shadow, at, at + PIECE):
            start, end = word.span()
            if spans and not shadow[spans[-1][1] : start].strip():
                start, _ = spans.pop()
            spans.append((start, end))
    return tuple(spans)


def follow(operation: Callable[..., Any], /, *values: Any, **named: Any) -> Any:
    """What an operation makes of the values; a text that it makes keeps its authors."""
    made = operation(*values, **named)
    if type(made) not in (str, Markup) or not is_authored((values, named)):
        return made
    if type(made) is Markup:
        return _AuthoredMarkup(made)
    try:
        shadow = operation(*_shadowed(values), **_shadowed(named))
    except Exception:  # whatever a shadow lacks, the text does without it
        shadow = ""
    return _side_by_side(made, shadow)


def join(pieces: Iterable[str], separator: str = "") -> str:
    """The pieces as one text."""
    pieces = list(pieces)
    if isinstance(separator, Markup):
        joined: str = follow(Markup.join, separator, pieces)
        return joined
    made = separator.join(pieces)
    if not is_authored([separator, *pieces]):
        return made
    return Authored(made, shadow_of(separator).join(map(shadow_of, pieces)))


def call_method(
    text: str, name: str, method: Callable[[str], Any], *args: Any, **named: Any
) -> Any:
    """What a method of a text gives; `method` finds it on a plain text."""
    if name == "join":
        return functools.partial(join, separator=text)(*args, **named)
    if isinstance(text, Markup):
        return follow(
            lambda text, *args, **named: method(text)(*args, **named), text, *args, **named
        )
    if name == "replace" and is_authored((text, *args)):
        return _replace(text, *args, **named)
    if name in _CUTS and isinstance(text, Authored):
        made = method(str.__str__(text))(*args, **named)
        return _CUTS[name](text, made, *args, **named)

    def called(itself: str, *args: Any, **named: Any) -> Any:
        return method(str.__str__(itself))(*args, **named)

    return follow(called, text, *args, **named)


def to_json(value: Any, *, sort_keys: bool, **style: Any) -> str:
    """The value in JSON."""
    if sort_keys:
        value = _sorted(value)
    made = json.dumps(value, **style)
    if not is_authored(value):
        return made
    shadow = json.dumps(_escaped(value, style["ensure_ascii"]), **style | {"ensure_ascii": False})
    return _side_by_side(made, shadow)


def is_authored(value: Any) -> bool:
    """Whether a text in the value has authors; what cannot be looked into may hold one."""
    if isinstance(value, str):
        return isinstance(value, (Authored, _AuthoredMarkup))
    if isinstance(value, dict):
        return any(map(is_authored, itertools.chain(value, value.values())))
    if isinstance(value, (list, tuple)):
        return any(map(is_authored, value))
    return not isinstance(value, _WITHOUT_TEXT)


def _shade(text: str, author: str) -> str:
    pieces = range(0, len(text), PIECE)
    return "".join(_shade_piece(text[at : at + PIECE], author) for at in pieces)


def _shade_piece(text: str, author: str) -> str:
    try:
        letters = text.encode("latin-1")  # most text is, and a table takes a sixth of the time
    except UnicodeEncodeError:
        return _LETTER.sub(author, text)
    return codecs.charmap_decode(letters, "strict", _LATIN_SHADOWS[author])[0]


@functools.lru_cache(maxsize=4096)
def _character(character: str, shadow: str) -> str:
    return character if character == shadow else Authored(character, shadow)


def _side_by_side(text: str, shadow: str) -> str:
    fits = len(text) == len(shadow) and all(
        of_shadow == of_text or of_shadow in _AUTHORS
        for of_text, of_shadow in zip(str.__iter__(text), shadow, strict=True)
    )
    return Authored(text, shadow if fits else _shade(text, USER))


def _shadowed(value: Any) -> Any:
    """The value with the shadows of its texts."""
    if isinstance(value, str):
        return shadow_of(value)
    if isinstance(value, dict):
        return {
            _Key(shadow_of(name)) if is_authored(name) else name: _shadowed(entry)
            for name, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(map(_shadowed, value))
    if isinstance(value, _WITHOUT_TEXT):
        return value
    raise TypeError("a value without a shadow")


def _pieces(text: Authored, made: Iterable[str], separator: str = "") -> Iterator[str]:
    """What a text was cut into, in order, with the separator or white space between."""
    at = 0
    for piece in made:
        at = text.index(piece, at)
        yield text[at : at + len(piece)]
        at += len(piece) + len(separator)


def _split(text: Authored, made: list[str], sep: str | None = None, maxsplit: int = -1) -> Any:
    return list(_pieces(text, made, sep or ""))


def _left(text: Authored, made: str, *_: Any) -> str:
    return text[: len(made)]


def _right(text: Authored, made: str, *_: Any) -> str:
    return text[len(text) - len(made) :]


def _middle(text: Authored, made: str, characters: str | None = None) -> str:
    start = len(text) - len(text.lstrip(characters))
    return text[start : start + len(made)]


_CUTS: dict[str, Callable[..., Any]] = {
    "split": _split,
    "rsplit": _split,
    "splitlines": lambda text, made, *_, **__: list(_pieces(text, made)),
    "partition": lambda text, made, _: tuple(_pieces(text, made)),
    "rpartition": lambda text, made, _: tuple(_pieces(text, made)),
    "strip": _middle,
    "lstrip": _right,
    "rstrip": _left,
    "removeprefix": _right,
    "removesuffix": _left,
}


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    made = str.__str__(text).replace(old, new, count)
    shadow, between = shadow_of(text), shadow_of(new)
    if not old:
        return Authored(made, shadow.replace("", between, count))
    at, pieces = 0, []
    for piece in text.split(old, count):
        pieces.append(shadow[at : at + len(piece)])
        at += len(piece) + len(old)
    return Authored(made, between.join(pieces))


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(entry) for name, entry in sorted(value.items())}
    return [_sorted(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _escaped(value: Any, ensure_ascii: bool) -> Any:
    """The value with shadows that are as long as what JSON makes of the texts."""
    if isinstance(value, dict):
        return {
            _Key(_escaped(name, ensure_ascii)) if is_authored(name) else name: _escaped(
                entry, ensure_ascii
            )
            for name, entry in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_escaped(entry, ensure_ascii) for entry in value]
    if not is_authored(value):
        return value
    shadow = shadow_of(value)
    return "".join(
        run[0][0] * (len(json.dumps(value[slice(*run.span())], ensure_ascii=ensure_ascii)) - 2)
        if run[0][0] in _AUTHORS
        else run[0]
        for run in _RUNS.finditer(shadow)
    )
