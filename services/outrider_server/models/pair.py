"""A target and the draft that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from . import DRAFT_FOLDER, TARGET_FOLDER


@dataclass(frozen=True, slots=True)
class Pair:
    """What `up` serves: folders, GGUF files, or names on a hub."""

    target: Path
    draft: Path | None
    """None where there is no draft model; n-grams draft alone then."""


BUNDLED = Pair(TARGET_FOLDER, DRAFT_FOLDER)
