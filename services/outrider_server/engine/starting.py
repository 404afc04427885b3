"""What an engine's start is given from outside: whom to tell how far it is, and what earlier starts found."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.progress import Progress, silent
from .records import Records


@dataclass(frozen=True, slots=True)
class Start:
    """By default nobody is told, and nothing is kept."""

    tell: Progress = silent
    records: Records = field(default_factory=Records)
    model_records: Records = field(default_factory=Records)
    """Of starts of the same model files, whatever the library would make of them."""
