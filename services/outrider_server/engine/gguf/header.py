"""The header of a GGUF file: what it says of its model, and where its tensors lie.

Owns that every number in it is checked before it is followed: nothing is taken into memory that the file does
not hold. The reader of the package gguf makes an object of each string, which takes it seconds for the
vocabulary of a small model; that of transformers needs transformers, which a second start has no time for.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ...core.errors import ModelRefused

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""Types of values, as the struct module calls them."""
STRING, ARRAY = 8, 9
ALIGNMENT = "general.alignment"
DEFAULT_ALIGNMENT = 32
MOST_NAME_BYTES = (1 << 16) - 1
MOST_STRING_BYTES = 1 << 26
MOST_ENTRIES = 1 << 24
"""Of an array, which is no longer than a vocabulary or its merges."""
MOST_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor where it lies in a file."""

    name: str
    file: Path
    shape: tuple[int, ...]
    """In torch's order: of a matrix, the outputs first."""
    kind: GGMLQuantizationType
    begin: int
    """Of its first byte in the file."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says, and where its tensors lie."""

    metadata: Mapping[str, Any]
    """Numbers, truths, strings, and tuples of these."""
    tensors: tuple[GgufTensor, ...]
    written: bytes
    """All of the header, as it stands in the file."""


def read_header(path: Path) -> GgufHeader:
    """The header of a file. Raises ModelRefused with what is wrong with it."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise ModelRefused(
                    f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
                return _Reading(path, pages).header()
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}") from error


class _Reading:
    """A place in a file's header."""

    def __init__(self, path: Path, pages: mmap.mmap) -> None:
        self._path = path
        self._pages = pages
        self._at = len(MAGIC)

    def header(self) -> GgufHeader:
        self._check_version()
        tensors, entries = self._take("QQ")
        metadata: dict[str, Any] = {}
        for _ in range(entries):
            name = self._string(MOST_NAME_BYTES)
            if name in metadata:
                self._refuse(f"it says {name!r:.80} twice")
            metadata[name] = self._value(*self._take("I"))
        listed = [self._tensor() for _ in self._counted(tensors, 24)]
        begin = self._data_begin(metadata)
        placed = tuple(self._placed(begin, *each) for each in listed)
        if len({tensor.name for tensor in placed}) != len(placed):
            self._refuse("two of its tensors have one name")
        return GgufHeader(metadata, placed, self._pages[: self._at])

    def _check_version(self) -> None:
        (version,) = self._take("I")
        if version & 0xFFFF == 0:
            raise ModelRefused(f"{self._path} is written for big-endian machines; convert it anew")
        if version not in VERSIONS:
            named = " and ".join(map(str, VERSIONS))
            raise ModelRefused(
                f"{self._path} is GGUF of version {version}, and versions {named} are read; convert it anew"
            )

    def _data_begin(self, metadata: Mapping[str, Any]) -> int:
        alignment = metadata.get(ALIGNMENT, DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            self._refuse(f"its alignment is {alignment}")
        return -(-self._at // alignment) * alignment

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string(MOST_NAME_BYTES)
        (dimensions,) = self._take("I")
        if dimensions > MOST_DIMENSIONS:
            self._refuse(f"its tensor {name!r:.80} has {dimensions} dimensions")
        shape = self._take(f"{dimensions}Q")[::-1]
        return (name, shape, *self._take("IQ"))

    def _placed(
        self, data_begin: int, name: str, shape: tuple[int, ...], kind: int, offset: int
    ) -> GgufTensor:
        try:
            known = GGMLQuantizationType(kind)
        except ValueError:
            raise ModelRefused(
                f"{self._path} cannot be loaded: its tensor {name} is of type {kind}, which the package gguf "
                "does not know"
            ) from None
        values, size = GGML_QUANT_SIZES[known]
        if not shape or shape[-1] % values:
            self._refuse(
                f"its tensor {name} of {list(shape)} does not hold whole blocks of {values}"
            )
        nbytes = prod(shape) // values * size
        if offset % 8:
            self._refuse(f"its tensor {name} begins at byte {offset}")
        if data_begin + offset + nbytes > len(self._pages):
            self._refuse(f"its tensor {name} ends behind the file's end")
        return GgufTensor(name, self._path, shape, known, data_begin + offset, nbytes)

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self._take(SCALARS[kind])[0]
        if kind == STRING:
            return self._string(MOST_STRING_BYTES)
        if kind != ARRAY:
            self._refuse(f"it holds a value of type {kind}")
        element, count = self._take("IQ")
        if element == STRING:
            return tuple(self._string(MOST_STRING_BYTES) for _ in self._counted(count, 8))
        if element not in SCALARS:
            self._refuse(f"it holds an array of type {element}")
        letter = SCALARS[element]
        return self._take(f"{len(self._counted(count, struct.calcsize(letter)))}{letter}")

    def _counted(self, count: int, least: int) -> range:
        """So many entries of at least so many bytes each."""
        if count > MOST_ENTRIES or count * least > len(self._pages) - self._at:
            self._refuse(f"it counts {count} entries where the file has no room for them")
        return range(count)

    def _string(self, most: int) -> str:
        (size,) = self._take("Q")
        end = self._at + size
        if size > most or end > len(self._pages):
            self._refuse(f"it holds a text of {size} bytes")
        text = self._pages[self._at : end]
        self._at = end
        try:
            return text.decode()
        except UnicodeDecodeError:
            self._refuse("it holds a text that is not UTF-8")

    def _take(self, letters: str) -> tuple[Any, ...]:
        letters = f"<{letters}"
        end = self._at + struct.calcsize(letters)
        if end > len(self._pages):
            self._refuse("it ends within its header")
        found = struct.unpack_from(letters, self._pages, self._at)
        self._at = end
        return found

    def _refuse(self, what: str) -> NoReturn:
        raise ModelRefused(f"{self._path} is damaged or cut short ({what}); copy it anew")
