"""The turns that this client ended before their time, and that the service may still be ending.

A session runs one turn at a time, so who meets such a turn waits for its end, which is due within a round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

WAIT_SECONDS = 10.0
"""How long a turn that was ended is believed to be the one that runs."""
AGAIN_SECONDS = 0.02
"""How often the service is asked whether it has ended."""


@dataclass(slots=True)
class EndingTurns:
    """By session, until when."""

    clock: Callable[[], float] = time.monotonic
    _until: dict[str, float] = field(default_factory=dict)

    def ended(self, session_id: str) -> None:
        """A turn was ended here before its time."""
        now = self.clock()
        self._until = {key: until for key, until in self._until.items() if until > now}
        self._until[session_id] = now + WAIT_SECONDS

    def over(self, session_id: str) -> None:
        """The service has ended it, as it began another."""
        self._until.pop(session_id, None)

    def may_run(self, session_id: str) -> bool:
        """True where a turn that runs on the service may be one that was ended here."""
        return self._until.get(session_id, 0.0) > self.clock()
