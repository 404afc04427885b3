"""What a file says of its model, asked for by name and checked by kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from ...core.errors import ModelRefused

ARCHITECTURE = "general.architecture"
Kind = TypeVar("Kind", int, float, bool, str, tuple[Any, ...])


class Metadata:
    """The values of a file's header; `architecture` goes before the names of the model's own."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        """Raises ModelRefused where the file names no architecture."""
        self.path = path
        self.values = values
        self.architecture = self.get(ARCHITECTURE, str)

    def own(self, name: str) -> str:
        """The whole name of one of the model's own values."""
        return f"{self.architecture}.{name}"

    def get(self, name: str, kind: type[Kind], default: Kind | None = None) -> Kind:
        """A value by its whole name. Raises ModelRefused where it is missing without a default, or another
        kind of value."""
        value = self.values.get(name, default)
        if value is None:
            raise ModelRefused(f"{self.path} cannot be loaded: it does not say {name}")
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ModelRefused(f"{self.path} cannot be loaded: its {name} is {value!r:.80}")
        return value

    def number(self, name: str, default: int | None = None) -> int:
        """One of the model's own, which may be told layer by layer as long as it is the same for all."""
        whole = self.own(name)
        value = self.values.get(whole)
        if isinstance(value, tuple) and value:
            if len(set(value)) > 1:
                raise ModelRefused(
                    f"{self.path} cannot be loaded: its {whole} differs from layer to layer"
                )
            return int(value[0])
        return self.get(whole, int, default)

    def real(self, name: str, default: float | None = None) -> float:
        """One of the model's own."""
        return self.get(self.own(name), float, default)

    def has(self, name: str) -> bool:
        """Whether the file says one of the model's own."""
        return self.own(name) in self.values
