"""What a start found, kept for the next one of the same kind: one small file an outcome, in the user's cache.

Owns when a file is believed: where it is whole, and was written by a start of the same facts. Any other one
is no record at all, and is written anew. Knows nothing of what the outcomes mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

DIGEST_BYTES = 12
MOST_KEPT = 50
"""Of each kind; those go that no start believed or wrote for the longest time."""


class ToldOnce:
    """Tells the operator the first of several sentences."""

    def __init__(self) -> None:
        self._told = False

    def __call__(self, sentence: str) -> None:
        if not self._told:
            print(f"outrider: {sentence}", file=sys.stderr, flush=True)
        self._told = True


@dataclass(frozen=True, slots=True)
class Records:
    """Outcomes of starts with the same facts."""

    folder: Path | None = None
    """None keeps nothing."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """All that may change an outcome."""
    complain: Callable[[str], None] = field(default_factory=ToldOnce)

    def of(self, **facts: object) -> Records:
        """Those of starts that have these facts too."""
        return replace(
            self, facts={**self.facts, **{name: str(fact) for name, fact in facts.items()}}
        )

    def recall(self, kind: str) -> Any:
        """The outcome that an earlier start kept, as JSON has it; None where none is to be believed."""
        if self.folder is None:
            return None
        path = self._path(self.folder, kind)
        try:
            record = json.loads(path.read_bytes())
            outcome, facts = record["outcome"], record["facts"]
            whole = record["digest"] == _digest(facts, outcome)
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        if not whole or facts != self.facts:
            return None
        with suppress(OSError):
            os.utime(path)
        return outcome

    def keep(self, kind: str, outcome: object) -> None:
        """Writes an outcome for later starts, in one move; where that fails, says so and goes on."""
        if self.folder is None:
            return
        digest = _digest(self.facts, outcome)
        record = {"outcome": outcome, "facts": dict(self.facts), "digest": digest}
        path = self._path(self.folder, kind)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{kind}-")
            try:
                with os.fdopen(descriptor, "w") as file:
                    json.dump(record, file, indent=1, sort_keys=True)
                os.replace(scratch, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(scratch)
                raise
            _leave_newest(path.parent, kind)
        except OSError as error:
            self.complain(
                f"what this start measured cannot be kept in {path.parent} ({error.strerror}), so every "
                "start measures anew; make the folder writable, or set XDG_CACHE_HOME"
            )

    def _path(self, folder: Path, kind: str) -> Path:
        return folder / f"{kind}-{_digest(self.facts, kind)}.json"


def _leave_newest(folder: Path, kind: str) -> None:
    with suppress(FileNotFoundError):  # another start tidies up too
        paths = sorted(folder.glob(f"{kind}-*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in paths[:-MOST_KEPT]:
            path.unlink()


def _digest(*parts: object) -> str:
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()
