"""Single values of a user's arguments, refused where a message cannot carry them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Set
from numbers import Real
from typing import Any

from outrider.errors import InvalidRequestError

NO_LIST = (str, bytes, bytearray, memoryview, Mapping, Set)
"""What can be iterated over and is no list of values in an order."""


def integer(field: str, value: object, *, noun: str = "") -> int:
    """An integer, of which `noun` says what it is. Raises `InvalidRequestError`."""
    try:
        if isinstance(value, bool):  # an integer to Python alone
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise invalid(field, "is an integer", value, noun=noun) from None


def sized_integer(field: str, value: object, bits: int, *, noun: str = "") -> int:
    """An integer that a signed field of so many bits carries. Raises `InvalidRequestError`."""
    number = integer(field, value, noun=noun)
    if number >= 2 ** (bits - 1):
        raise refused(field, f"{noun or field} is too large: {shown(value)}")
    if number < -(2 ** (bits - 1)):
        raise refused(field, f"{noun or field} is too small: {shown(value)}")
    return number


def int32(field: str, value: object, *, noun: str = "") -> int:
    """An integer of 32 bits. Raises `InvalidRequestError`."""
    return sized_integer(field, value, 32, noun=noun)


def int32s(field: str, values: object) -> list[int]:
    """Several token ids. Raises `InvalidRequestError`."""
    if isinstance(values, NO_LIST) or not isinstance(values, Iterable):
        raise invalid(field, "is a list of integers", values)
    return [int32(field, value, noun=f"a token id of {field}") for value in values]


def flag(field: str, value: object) -> bool:
    """True or False. Raises `InvalidRequestError`."""
    if not isinstance(value, bool):
        raise invalid(field, "is True or False", value)
    return value


def number(field: str, value: object, *, noun: str = "") -> float:
    """A finite or infinite number. Raises `InvalidRequestError`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise invalid(field, "is a number", value, noun=noun)
    try:
        return float(value)
    except OverflowError:
        size = "small" if value < 0 else "large"
        raise refused(field, f"{noun or field} is too {size}: {shown(value)}") from None


def text(field: str, value: object, *, noun: str = "") -> str:
    """A text. Raises `InvalidRequestError`."""
    if not isinstance(value, str):
        raise invalid(field, "is text", value, noun=noun)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(field, "is text that UTF-8 can carry", value, noun=noun) from None
    return value


def texts(field: str, values: object) -> list[str]:
    """One text, or several. Raises `InvalidRequestError`."""
    if isinstance(values, str):
        return [text(field, values)]
    if isinstance(values, NO_LIST) or not isinstance(values, Iterable):
        raise invalid(field, "is a text or a list of texts", values)
    return [text(field, value, noun=f"each of {field}") for value in values]


def choice(field: str, value: object, choices: Mapping[str, Any]) -> Any:
    """What one of the names stands for. Raises `InvalidRequestError`."""
    if not isinstance(value, str) or value not in choices:
        raise invalid(field, f"is one of {', '.join(choices)}", value)
    return choices[value]


def invalid(field: str, rule: str, value: object, *, noun: str = "") -> InvalidRequestError:
    """The error that says what the rule is and what was given instead; `noun` where it is not the field."""
    return refused(field, f"{noun or field} {rule}, not {shown(value)}")


def refused(field: str, message: str) -> InvalidRequestError:
    """The error of a field."""
    return InvalidRequestError(message, field=field, reason="INVALID_REQUEST")


def shown(value: object) -> str:
    """A value as a message shows it."""
    try:
        written = repr(value)
    except Exception:  # as of an integer with more digits than Python writes
        written = f"a value of type {type(value).__name__}"
    return written if len(written) <= 40 else written[:37] + "..."
