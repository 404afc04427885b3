"""Tokens as text, coloured by who wrote them first.

Works with any rich console. Where that is no terminal the text is written as it is, with no colour.
"""

from __future__ import annotations

from rich.console import Console

from outrider.types import Event, Summary, TokenSource

STYLES = {
    TokenSource.DRAFT: "green",
    TokenSource.NGRAM: "cyan",
    TokenSource.TARGET: "bold",
    TokenSource.UNKNOWN: "",
}

MARKS = {
    TokenSource.DRAFT: ("[", "]"),
    TokenSource.NGRAM: ("{", "}"),
    TokenSource.TARGET: ("", ""),
    TokenSource.UNKNOWN: ("", ""),
}

# A model can write escape sequences; a terminal must not obey them.
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """A model's text without what a terminal would obey."""
    return text.translate(_CONTROLS)


class TokenRenderer:
    """Writes events to a console as they come.

    `marks` puts brackets around the draft's tokens and braces around the n-gram drafter's, for
    where colour cannot be seen.
    """

    def __init__(self, console: Console, *, marks: bool = False) -> None:
        self._console = console
        self._marks = marks
        self._last = "\n"
        self._end = ""

    def write(self, event: Event) -> None:
        """Writes one event's text, if it has any."""
        if not event.text:
            return
        self._last = event.text[-1]
        text = self._marked(event.source) + event.text
        if self._console.is_terminal:
            style = STYLES[event.source]
            self._console.out(printable(text), style=style, highlight=False, end="")
        else:
            self._console.file.write(text)
        self._console.file.flush()

    def finish(self) -> None:
        """Ends the line, where the text has not."""
        rest = self._marked(TokenSource.UNKNOWN)
        if rest or self._last != "\n":
            self._console.file.write(rest + "\n")
            self._console.file.flush()
            self._last = "\n"

    def _marked(self, source: TokenSource) -> str:
        """What stands between the last token and one of this source."""
        begin, end = MARKS[source] if self._marks else ("", "")
        if end == self._end:
            return ""
        between, self._end = self._end + begin, end
        return between


def write_legend(console: Console, has_draft: bool = True) -> None:
    """Says what the colours mean."""
    draft = "[green]the draft was right[/green] · " if has_draft else ""
    console.print(
        f"{draft}[cyan]n-gram was right[/cyan] · [bold]the target's own[/bold]", highlight=False
    )


def summary_line(summary: Summary) -> str:
    """A turn in one line."""
    pace = f"{summary.tokens_per_round:.2f} a round"
    parts = [
        f"{summary.tokens} tokens in {summary.rounds} rounds ({pace})",
        f"{summary.accepted} of {summary.proposed} proposed right ({summary.agreement:.0%})",
        f"first token {summary.ttft_ms:.0f} ms, all {summary.duration_ms:.0f} ms",
        summary.finish_reason.value,
    ]
    if summary.degraded:
        parts.append(f"degraded: {summary.degraded_reason}")
    return " · ".join(parts)
