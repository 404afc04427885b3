"""A turn whose reader stands still gives up what others wait for: its slot at the target, and at the draft.

One rule: what the reader was given last has not left for `STALL_SECONDS`. The turn's KV stays where it is
until somebody needs the room; when its reader goes on, the turn is opened anew and goes on too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STALL_SECONDS = 2.0


class ReaderWatch:
    """Watches the reader of one turn."""

    def __init__(self) -> None:
        self._given_up: tuple[Callable[[], None], ...] = ()

    def holds(self, *give_up: Callable[[], None]) -> None:
        """What the turn holds now, as the calls that give it up."""
        self._given_up = give_up

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While the reader is given something, until it has taken it or is gone."""
        timer = asyncio.get_running_loop().call_later(STALL_SECONDS, self._stalled)
        try:
            yield
        finally:
            timer.cancel()

    def _stalled(self) -> None:
        for give_up in self._given_up:
            give_up()
