"""How the demo shows a reply while it is written: who wrote each token, and how fast they come.

On a terminal by colours, with a line of figures below that is drawn anew; elsewhere by marks.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType

import outrider
from outrider.cli.render import MARKS, STYLES, TokenRenderer, printable, write_legend
from outrider.types import TokenSource
from rich.cells import chop_cells
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from ..core.surroundings import Clock

REFRESHES_A_SECOND = 10.0
PROMPT_STYLE = FIGURES_STYLE = "dim"
WRITERS = {
    TokenSource.DRAFT: "draft",
    TokenSource.NGRAM: "n-grams",
    TokenSource.TARGET: "target",
}


def show_legend(console: Console, has_draft: bool) -> None:
    """Says how one sees who wrote a token."""
    if _draws(console):
        write_legend(console, has_draft)
        return
    sources = (TokenSource.DRAFT, TokenSource.NGRAM)[not has_draft :]
    marked = ", ".join(f"{''.join(MARKS[source])} {WRITERS[source]}" for source in sources)
    console.print(escape(f"marks: {marked}, rest target"))


async def show_reply(console: Console, prompt: str, reply: outrider.AsyncReply) -> None:
    """Shows a reply behind its prompt as it comes, and what it came to."""
    figures = Figures()
    if _draws(console):
        with LiveText(console, figures.line) as text:
            text.write(prompt, PROMPT_STYLE)
            async for event in reply:
                figures.add(event)
                text.write(printable(event.text), STYLES[event.source])
    else:
        console.print(Text(prompt, PROMPT_STYLE), end="", soft_wrap=True)
        renderer = TokenRenderer(console, marks=True)
        async for event in reply:
            figures.add(event)
            renderer.write(event)
        renderer.finish()
    console.print(figures.line(reply.summary), style=FIGURES_STYLE)


def tokens_per_second(summary: outrider.Summary) -> float:
    """Of a whole turn, with the wait for its first token."""
    return summary.tokens / (summary.duration_ms / 1000)


class Figures:
    """What is known of a reply so far."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._begun = clock()
        self._written: Counter[TokenSource] = Counter()

    def add(self, event: outrider.Event) -> None:
        """Counts a token."""
        self._written[event.source] += 1

    def line(self, summary: outrider.Summary | None = None) -> str:
        """How many tokens, how fast, and by whom; by its summary once there is one."""
        tokens = self._written.total()
        if not tokens:
            return "no token yet"
        rounds = "" if summary is None else f" in {summary.rounds} rounds"
        speed = tokens / max(self._clock() - self._begun, 1e-3)
        if summary is not None:
            speed = tokens_per_second(summary)
        writers = ", ".join(
            f"{name} {self._written[source]}"
            for source, name in WRITERS.items()
            if self._written[source]
        )
        return f"{tokens} tokens{rounds}, {speed:.0f} a second: {writers}"


class LiveText:
    """Text that is being written on a terminal, for the body of a `with`.

    Lines that are full are printed for good; the last one is drawn anew, and a line of figures below it.
    """

    def __init__(self, console: Console, figures: Callable[[], str]) -> None:
        self._console = console
        self._figures = figures
        self._line = Text()
        self._live = Live(
            console=console,
            get_renderable=self._drawn,
            refresh_per_second=REFRESHES_A_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> LiveText:
        self._live.start(refresh=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()
        if self._line:
            self._console.print(self._line)

    def write(self, text: str, style: str) -> None:
        """Adds text that a terminal may show."""
        longer = self._line.copy().append(text.expandtabs(4), style)
        *full, self._line = folded(longer, self._console.width)
        for line in full:
            line.rstrip()  # a space that a full line has no room for would take a line of its own
            self._console.print(line, no_wrap=True, overflow="ignore", crop=False)

    def _drawn(self) -> Group:
        figures = Text(self._figures(), FIGURES_STYLE, no_wrap=True, overflow="ellipsis")
        return Group(self._line, figures)


def folded(text: Text, width: int) -> list[Text]:
    """A text's lines, none wider than so many cells, broken at spaces where there are some."""
    return [part for line in text.split("\n", allow_blank=True) for part in _parts(line, width)]


def _parts(line: Text, width: int) -> list[Text]:
    parts = []
    while line.cell_len > width:
        fits = len(chop_cells(line.plain, width)[0])
        at = line.plain.rfind(" ", 0, fits + 1) + 1 or max(1, fits)
        first, line = line.divide([at])
        parts.append(first)
    return [*parts, line]


def _draws(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal
