"""Stop strings: what may be shown of a growing text that ends before the first of them.

Owns the matching, across the borders of pieces. Knows neither tokens nor turns.

The rule speaks of the text alone, not of how it was cut into pieces: reading character by
character, the first stop string to be complete ends the text, and of several that are complete at
the same character the longest does.
"""

from __future__ import annotations

from collections.abc import Sequence

from outrider_server.speculation.errors import InvalidRequest

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

    def feed(self, piece: str) -> tuple[str, bool]:
        """Takes the next piece; returns what can be shown now, and whether a stop string is
        complete.

        After a complete stop string nothing may be fed any more.
        """
        text = self._held + piece
        start = self._first_match(text)
        if start is not None:
            self._held = ""
            return text[:start], True
        shown = len(text) - self._undecided(text)
        self._held = text[shown:]
        return text[:shown], False

    def flush(self) -> str:
        """Returns what was held back, once no text can follow."""
        held, self._held = self._held, ""
        return held

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
