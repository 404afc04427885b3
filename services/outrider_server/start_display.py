"""How a start is shown: a bar on a terminal, plain lines elsewhere, by the parent where there is one."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import TYPE_CHECKING, Protocol, TextIO

from .core.progress import Progress, Report
from .core.surroundings import Clock
from .start_reports import VARIABLE, StageTimes, amount, said, written

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.live import Live

STANDARD_OUTPUT = 1
LINE_SECONDS = 5.0
"""A stage that lasts says how far it is no more often."""
REPORT_SECONDS = 0.1
"""The same of reports to a parent."""
BAR_WIDTH = 24
REFRESHES_A_SECOND = 4.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Display(Protocol):
    """Where the starts of services are shown, from any thread."""

    def show(self, service: str, report: Report) -> None:
        """What a service does now."""

    def ready(self, service: str) -> None:
        """It serves."""

    def close(self) -> None:
        """Nothing more is shown; what was in the way of other output is gone."""


class Nowhere:
    """Shows nothing."""

    def show(self, service: str, report: Report) -> None:
        """Takes what nobody sees."""

    def ready(self, service: str) -> None:
        """Nobody sees it."""

    def close(self) -> None:
        """Nothing is there."""


class Lines:
    """A line for each stage, and one of how long all took."""

    def __init__(self, output: TextIO, clock: Clock) -> None:
        self._output = output
        self._clock = clock
        self._times: dict[str, StageTimes] = {}
        self._written: dict[str, float] = {}

    def show(self, service: str, report: Report) -> None:
        """Writes what is new, or was not said for a while."""
        now = self._clock()
        is_new = self._times.setdefault(service, StageTimes()).at(report.stage, now)
        if is_new or now - self._written[service] >= LINE_SECONDS:
            self._written[service] = now
            self._write(said(service, report))

    def ready(self, service: str) -> None:
        """Writes how long it took."""
        times = self._times.get(service, StageTimes())
        self._write(f"{service}: {times.until(self._clock())}")

    def close(self) -> None:
        """Lines stay."""

    def _write(self, line: str) -> None:
        print(line, file=self._output, flush=True)


class ToParent:
    """A child's reports, for its parent to show."""

    def __init__(self, output: TextIO, clock: Clock) -> None:
        self._output = output
        self._clock = clock
        self._last: dict[str, tuple[Report, float]] = {}

    def show(self, service: str, report: Report) -> None:
        """Writes the report, unless the last one of its stage is fresh."""
        now = self._clock()
        last, written_at = self._last.get(service, (None, 0.0))
        if last is None or last.stage is not report.stage or now - written_at >= REPORT_SECONDS:
            self._last[service] = report, now
            with suppress(BrokenPipeError):
                print(written(service, report), file=self._output, flush=True)

    def ready(self, service: str) -> None:
        """Its parent hears it by `ready ADDRESS`."""

    def close(self) -> None:
        """Nothing was in the way."""


class Bar:
    """A line for each service that rewrites itself, from the first report on, and is gone in the end."""

    def __init__(self, output: TextIO, clock: Clock) -> None:
        self._clock = clock
        self._starts: dict[str, tuple[Report, float]] = {}
        self._live = rewritten(output, self._drawn)

    def show(self, service: str, report: Report) -> None:
        """Draws the bar of the service, and how long it has been starting."""
        _, since = self._starts.get(service, (report, self._clock()))
        self._starts[service] = report, since
        self._live.start(refresh=True)

    def ready(self, service: str) -> None:
        """Takes its bar away."""
        self._starts.pop(service, None)

    def close(self) -> None:
        """Takes all away."""
        self._live.stop()

    def _drawn(self) -> RenderableType:
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        table = Table.grid(padding=(0, 1))
        for service, (report, since) in list(self._starts.items()):
            table.add_row(
                f"{service}: {report.stage.value}",
                ProgressBar(report.total or None, report.done, BAR_WIDTH),
                amount(report),
                f"{self._clock() - since:.0f} s",
            )
        return table


def rewritten(output: TextIO, draw: Callable[[], RenderableType]) -> Live:
    """Lines that rewrite themselves once they are started."""
    from rich.live import Live

    from .terminal_console import TerminalConsole

    return Live(
        console=TerminalConsole(file=output, highlight=False),
        get_renderable=draw,
        refresh_per_second=REFRESHES_A_SECOND,
        transient=True,
        redirect_stdout=False,
    )


def has_bars(variables: Mapping[str, str]) -> bool:
    """Whether standard error is a terminal on which lines rewrite themselves."""
    return sys.stderr.isatty() and variables.get("TERM", "dumb") not in ("dumb", "unknown")


@contextmanager
def closed_by_signals(close: Callable[[], None]) -> Iterator[None]:
    """While the body runs, a signal that ends the process closes something first."""

    def end(number: int, _: FrameType | None) -> None:
        close()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    deadly = [number for number in ENDING if signal.getsignal(number) is signal.SIG_DFL]
    for number in deadly:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in deadly:
            signal.signal(number, signal.SIG_DFL)


def new_display(
    clock: Clock = time.monotonic, variables: Mapping[str, str] = os.environ
) -> Display:
    """The display of this process. Of ranks that share a model, rank 0 alone has one."""
    if variables.get("RANK", "0") != "0":
        return Nowhere()
    if variables.get(VARIABLE):
        # Standard output itself ends the process where nobody reads on, and a child whose parent is gone has
        # to clear up first.
        return ToParent(os.fdopen(STANDARD_OUTPUT, "w", closefd=False), clock)
    return Bar(sys.stderr, clock) if has_bars(variables) else Lines(sys.stderr, clock)


@contextmanager
def shown(service: str) -> Iterator[Progress]:
    """Shows the start of this process's service, which is the body. A signal that ends it leaves no bar."""
    display = new_display()
    close = display.close if isinstance(display, Bar) else None
    with nullcontext() if close is None else closed_by_signals(close):
        try:
            yield lambda report: display.show(service, report)
            display.ready(service)
        finally:
            display.close()
