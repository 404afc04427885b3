"""The guesses of one draft stream that the session has received and not yet seen decided.

Draft and session must agree on which guesses are still worth anything although their messages cross. Both
count *branches*: a branch ends at the first guess that differs from the token decided for its position.
The two sides see the same guesses and the same commits, each in order, so they count alike; a guess that
carries another branch number was made before the draft knew, and is dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class Guesses:
    """Buffered guesses for the positions from `position` on. `tokens` are the session's tokens so far."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self._committed = list(tokens)
        self._waiting: deque[int] = deque()
        self.branch = 0
        self._compared = 0
        self._agreed = 0

    @property
    def position(self) -> int:
        """Number of committed tokens; the first waiting guess is for this position."""
        return len(self._committed)

    def __len__(self) -> int:
        return len(self._waiting)

    def peek(self, maximum: int) -> tuple[int, ...]:
        """The first guesses that wait, at most `maximum`."""
        return tuple(self._waiting[index] for index in range(min(maximum, len(self._waiting))))

    def receive(self, branch: int, start_position: int, tokens: Sequence[int]) -> None:
        """Takes a proposal in. Guesses for decided positions are compared, others wait."""
        if branch != self.branch or start_position > self.position + len(self._waiting):
            return
        for offset, token in enumerate(tokens):
            position = start_position + offset
            if position < self.position:
                if not self._compare(token, self._committed[position]):
                    return
            elif position == self.position + len(self._waiting):
                self._waiting.append(token)

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        """Notes decided tokens, which must follow the committed ones without a gap."""
        if start_position != self.position:
            raise ValueError("commits must follow each other without a gap")
        for token in tokens:
            self._committed.append(token)
            if self._waiting:
                self._compare(self._waiting.popleft(), token)

    def compared(self) -> tuple[int, int]:
        """(guesses compared with decided tokens since the last call, those that agreed)."""
        counts = self._compared, self._agreed
        self._compared = self._agreed = 0
        return counts

    def _compare(self, guess: int, token: int) -> bool:
        """Compares a guess with what was decided; a wrong one ends the branch."""
        self._compared += 1
        if guess == token:
            self._agreed += 1
            return True
        self.branch += 1
        self._waiting.clear()
        return False
