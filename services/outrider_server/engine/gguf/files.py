"""The files of one model: one, or several that were split off, of which the first one is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import ModelRefused
from .header import GgufHeader, GgufTensor, read_header

PART = re.compile(
    r"(?P<model>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)", re.IGNORECASE
)
COUNT, NUMBER, TENSORS = "split.count", "split.no", "split.tensors.count"


@dataclass(frozen=True, slots=True)
class GgufFiles:
    """What a model's files say and hold."""

    paths: tuple[Path, ...]
    metadata: Mapping[str, Any]
    """What the first one says, which says it for all."""
    tensors: Mapping[str, GgufTensor]
    """Of all files, by name."""
    written: bytes
    """All headers, as they stand in the files."""

    @property
    def path(self) -> Path:
        """The file that was named."""
        return self.paths[0]


def open_files(path: Path) -> GgufFiles:
    """The model whose first, or only, file this is. Raises ModelRefused."""
    first = read_header(path)
    paths = _parts(path, first.metadata)
    headers = [first, *(_part(path, number) for number, path in enumerate(paths) if number)]
    listed = [tensor for header in headers for tensor in header.tensors]
    tensors = {tensor.name: tensor for tensor in listed}
    counted = first.metadata.get(TENSORS, len(listed))
    if len(tensors) != len(listed) or counted != len(listed):
        raise ModelRefused(
            f"{path} is split into files that do not belong together: they hold {len(tensors)} tensors of "
            f"{counted}; copy them anew"
        )
    written = b"".join(header.written for header in headers)
    return GgufFiles(paths, first.metadata, tensors, written)


def _parts(path: Path, metadata: Mapping[str, Any]) -> tuple[Path, ...]:
    count, number = metadata.get(COUNT, 1), metadata.get(NUMBER, 0)
    if count in (0, 1):
        return (path,)
    named = PART.fullmatch(path.name)
    if named is None or int(named["count"]) != count:
        raise ModelRefused(
            f"{path} is one of {count} files, and its name does not end in -00001-of-{count:05}.gguf; "
            "give all of them the names that they had"
        )
    parts = tuple(
        path.with_name(f"{named['model']}-{part + 1:05}-of-{named['count']}{named['suffix']}")
        for part in range(count)
    )
    if number != 0 or path != parts[0]:
        raise ModelRefused(
            f"{path} is part of a model; name the first of its files, {parts[0].name}"
        )
    for part in parts:
        if not part.is_file():
            raise ModelRefused(f"{path} is one of {count} files, and {part.name} is not beside it")
    return parts


def _part(path: Path, number: int) -> GgufHeader:
    header = read_header(path)
    if header.metadata.get(NUMBER) != number:
        raise ModelRefused(f"{path} is not part {number + 1} of its model; copy it anew")
    return header
