"""Messages, plausible by their fields' names and spoilt by their fields' types."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

NAN, INFINITY = float("nan"), float("inf")
MANY = (2, 17, 129, 1025)
VERY_MANY = 60_000
WHOLE = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}
REAL = (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT)
NUMBERS = (0.0, -0.0, 1.0, -1.0, 0.5, 100.0, 101.0, 5e-324, 1e30, -1e30, NAN, INFINITY, -INFINITY)
TEXTS = (
    "",
    "x",
    "\0",
    "a\0b",
    " " * 300,
    "9" * 5000,
    "9" * 19 + "-x",
    "word " * 3000,
    "<|endoftext|>",
    "\N{GRINNING FACE}\u0301\u202e",
    "[" * 2000,
    '{"a": 1e999}',
    "unknown",
)


class Spoiler:
    """Spoils messages, the same for the same random numbers."""

    def __init__(self, draws: random.Random) -> None:
        self._draws = draws

    def spoil(self, message: Message) -> None:
        """Changes one field of a message, or of a message in it."""
        descriptor = message.DESCRIPTOR
        if not descriptor.fields:
            return
        field = self._draws.choice(descriptor.fields)
        inner = self._message_in(message, field)
        if inner is not None and self._draws.random() < 0.7:
            self.spoil(inner)
        elif self._draws.random() < 0.2:
            message.ClearField(field.name)
        else:
            self._set(message, field)

    def frame(self, message: Message) -> bytes:
        """What goes over the wire: the message, or now and then something that is none."""
        data = message.SerializeToString()
        match self._draws.randrange(20):
            case 0:
                return data[: self._draws.randrange(len(data) + 1)]
            case 1:
                return self._draws.randbytes(self._draws.randrange(60))
            case 2 if data:
                at = self._draws.randrange(len(data))
                return data[:at] + bytes([self._draws.randrange(256)]) + data[at + 1 :]
            case 3:
                return data + b"\x0a\x02\xff\xfe"  # a field 1 of invalid UTF-8
            case 4:
                return data + b"\xfa\x07\x04junk"  # a field that nobody knows
        return data

    def _message_in(self, message: Message, field: FieldDescriptor) -> Message | None:
        if field.type != FieldDescriptor.TYPE_MESSAGE or _is_map(field):
            return None
        held = getattr(message, field.name)
        if not field.is_repeated:
            return held  # type: ignore[no-any-return]
        return self._draws.choice(held) if len(held) else None

    def _set(self, message: Message, field: FieldDescriptor) -> None:
        if _is_map(field):
            self._fill_map(getattr(message, field.name), field)
        elif field.is_repeated:
            held = getattr(message, field.name)
            for _ in range(self._count(field)):
                if field.type == FieldDescriptor.TYPE_MESSAGE:
                    self.spoil(held.add())
                else:
                    held.append(self._value(field))
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = getattr(message, field.name)
            inner.SetInParent()
            self.spoil(inner)
        else:
            setattr(message, field.name, self._value(field))

    def _count(self, field: FieldDescriptor) -> int:
        if self._draws.random() < 0.02 and field.type != FieldDescriptor.TYPE_MESSAGE:
            return VERY_MANY
        return self._draws.choice(MANY)

    def _fill_map(self, held: Any, field: FieldDescriptor) -> None:
        key, value = field.message_type.fields
        for _ in range(self._count(field)):
            held[self._value(key)] = self._value(value)

    def _value(self, field: FieldDescriptor) -> Any:
        draws = self._draws
        if field.type in WHOLE:
            least, most = WHOLE[field.type]
            near = draws.choice((0, 1, 2, 7, 20, 64, 128, 1000, 4096, least, most, -1, -2))
            return min(max(near, least), most)
        if field.type in REAL:
            return draws.choice(NUMBERS)
        if field.type == FieldDescriptor.TYPE_ENUM:
            return draws.choice((0, 1, 2, 3, 4, 5, 99, -1, 2**31 - 1))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return draws.random() < 0.5
        if field.type == FieldDescriptor.TYPE_BYTES:
            return draws.randbytes(draws.choice((0, 1, 16, 300)))
        return draws.choice(TEXTS)


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and kind.GetOptions().map_entry
