"""How far a distillation is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

from ..core.surroundings import Clock
from ..start_display import BAR_WIDTH, closed_by_signals, has_bars, rewritten

if TYPE_CHECKING:
    from rich.console import RenderableType

LINE_SECONDS = 10.0
"""A stage says how far it is no more often, where it has lines."""


@dataclass(frozen=True, slots=True)
class Advance:
    """What is done now, and how much of it. A total of 0 is not known."""

    doing: str
    done: int = 0
    total: int = 0
    note: str = ""

    @property
    def amount(self) -> str:
        """How much is done, in words."""
        return f"{self.done:,} of {self.total:,}" if self.total else ""

    @property
    def line(self) -> str:
        """All of it."""
        return ", ".join(filter(None, (self.doing, self.amount, self.note)))


class Display(Protocol):
    """Where a distillation is shown."""

    def show(self, advance: Advance) -> None:
        """What is done now; takes the place of what was."""

    def say(self, sentence: str) -> None:
        """What has been found: it stays."""


class Lines:
    """A line for what is new, and now and then one for what goes on."""

    def __init__(self, output: TextIO, clock: Clock = time.monotonic) -> None:
        self._output = output
        self._clock = clock
        self._doing = ""
        self._written = 0.0

    def show(self, advance: Advance) -> None:
        """Writes what is new, or was not said for a while."""
        now = self._clock()
        if advance.doing != self._doing or now - self._written >= LINE_SECONDS:
            self._doing, self._written = advance.doing, now
            self.say(advance.line)

    def say(self, sentence: str) -> None:
        """Writes a line."""
        print(f"distill: {sentence}", file=self._output, flush=True)


class Bar:
    """A line that rewrites itself, below what has been found."""

    def __init__(self, output: TextIO) -> None:
        self._advance = Advance("")
        self.live = rewritten(output, self._drawn)

    def show(self, advance: Advance) -> None:
        """Redraws the line."""
        self._advance = advance

    def say(self, sentence: str) -> None:
        """Writes a line above."""
        self.live.console.print(f"distill: {sentence}")

    def _drawn(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        advance = self._advance
        table = Table.grid(padding=(0, 1))
        bar = ProgressBar(advance.total or None, advance.done, BAR_WIDTH)
        table.add_row(advance.doing, bar, advance.amount, advance.note)
        return table


@contextmanager
def shown(variables: Mapping[str, str] = os.environ) -> Iterator[Display]:
    """The display of this process while the body runs, on standard error."""
    if not has_bars(variables):
        yield Lines(sys.stderr)
        return
    bar = Bar(sys.stderr)
    with closed_by_signals(bar.live.stop), bar.live:
        yield bar
