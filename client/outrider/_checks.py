"""Single values of a user's arguments, refused where a message cannot carry them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

from outrider.errors import InvalidRequestError


def integer(field: str, value: object, lowest: int, highest: int) -> int:
    """An integer in a range. Raises `InvalidRequestError`."""
    try:
        index = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise invalid(field, "is an integer", value) from None
    if not lowest <= index <= highest:
        raise invalid(field, f"is {lowest} to {highest}", value)
    return index


def int32(field: str, value: object) -> int:
    """An integer of 32 bits. Raises `InvalidRequestError`."""
    return integer(field, value, -(2**31), 2**31 - 1)


def int32s(field: str, values: object) -> list[int]:
    """Several integers of 32 bits. Raises `InvalidRequestError`."""
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise invalid(field, "is a list of integers", values)
    return [int32(field, value) for value in values]


def flag(field: str, value: object) -> bool:
    """True or False. Raises `InvalidRequestError`."""
    if not isinstance(value, bool):
        raise invalid(field, "is True or False", value)
    return value


def number(field: str, value: object) -> float:
    """A finite or infinite number. Raises `InvalidRequestError`."""
    if not isinstance(value, Real):
        raise invalid(field, "is a number", value)
    try:
        return float(value)
    except OverflowError:
        raise invalid(field, "is a number of double precision", value) from None


def text(field: str, value: object) -> str:
    """A text. Raises `InvalidRequestError`."""
    if not isinstance(value, str):
        raise invalid(field, "is text", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise invalid(field, "is text that UTF-8 can carry", value) from None
    return value


def texts(field: str, values: object) -> list[str]:
    """Several texts. Raises `InvalidRequestError`."""
    if not isinstance(values, Iterable):
        raise invalid(field, "is a list of texts", values)
    return [text(field, value) for value in values]


def choice(field: str, value: object, choices: Mapping[str, Any]) -> Any:
    """What one of the names stands for. Raises `InvalidRequestError`."""
    if not isinstance(value, str) or value not in choices:
        raise invalid(field, f"is one of {', '.join(choices)}", value)
    return choices[value]


def invalid(field: str, rule: str, value: object) -> InvalidRequestError:
    """The error that says what the rule is and what was given instead."""
    shown = repr(value)
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return InvalidRequestError(
        f"{field} {rule}, not {shown}", field=field, reason="INVALID_REQUEST"
    )
