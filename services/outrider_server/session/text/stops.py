"""Stop strings: what may be shown of a growing text that ends before the first of them.

Owns the matching, across the borders of pieces. Knows neither tokens nor turns.

The rule speaks of the text alone, not of how it was cut into pieces: reading character by
character, the first stop string to be complete ends the text, and of several that are complete at
the same character the longest does.
"""

from __future__ import annotations

from collections.abc import Sequence

from outrider_server.core.errors import InvalidRequest

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256


class StopStrings:
    """Reads a text piece by piece and holds back whatever may be the beginning of a stop string."""

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises InvalidRequest for too many strings, or one that is empty or too long."""
        if len(stops) > MAX_STOPS:
            raise InvalidRequest("stop", f"stop must have at most {MAX_STOPS} strings")
        if any(not 1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in stops):
            raise InvalidRequest(
                "stop", f"every stop string must have 1 to {MAX_STOP_CHARACTERS} characters"
            )
        self._stops = tuple(stops)
        self._held = ""
        self._hidden: list[tuple[int, int]] = []
        """Spans of what is held, in order, that count as text and are not shown."""

    def feed(self, piece: str, hidden: str = "") -> tuple[str, bool]:
        """Takes the next piece; returns what can be shown now, and whether a stop string is
        complete.

        `hidden` stands before the piece and is never shown. It counts where a stop string holds it
        whole; else the texts beside it are one. After a complete stop string nothing may be fed any
        more.
        """
        if hidden and any(hidden in stop for stop in self._stops):
            self._hidden.append((len(self._held), len(self._held) + len(hidden)))
            piece = hidden + piece
        self._held += piece
        start = self._first_match(self._held)
        if start is not None:
            shown = self._release(start)
            self._held, self._hidden = "", []
            return shown, True
        return self._release(len(self._held) - self._undecided(self._held)), False

    def flush(self) -> str:
        """Returns what was held back, once no text can follow."""
        return self._release(len(self._held))

    def _release(self, length: int) -> str:
        """So much of what is held, without what is hidden in it; the rest stays."""
        shown, at = "", 0
        for start, end in self._hidden:
            shown += self._held[at : max(at, min(start, length))]
            at = max(at, min(end, length))
        shown += self._held[at:length]
        self._held = self._held[length:]
        self._hidden = [
            (max(start - length, 0), end - length) for start, end in self._hidden if end > length
        ]
        return shown

    def _first_match(self, text: str) -> int | None:
        matches = (
            (start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0
        )
        first = min(matches, default=None)
        return None if first is None else first[1]

    def _undecided(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        longest = 0
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:length]):
                    longest = length
                    break
        return longest
