"""Which session lives in which slot, and which tokens the slot holds.

Pure bookkeeping, owned by the device thread. The tokens are kept here beside the KV so that two services
can compare digests instead of trusting lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ..core.errors import Exhausted, PositionMismatch, StaleEpoch, TurnRunning


@dataclass(slots=True)
class Slot:
    """One session's row in the cache. `tokens` are those whose KV is valid."""

    index: int
    session_id: str
    epoch: int
    tokens: list[int] = field(default_factory=list)
    open: bool = False
    generated_from: int = 0
    """Where the tokens that the turn generates begin."""
    reading: int = 0
    """At what length the tokens were read: see `lengths.py`."""
    opening: int = 0
    """Counts openings: a stream whose opening is not the latest has been taken over."""

    def write(self, start_position: int, tokens: Sequence[int]) -> None:
        """Notes tokens written at `start_position`; what stood there and after is gone."""
        del self.tokens[start_position:]
        self.tokens.extend(tokens)

    def check_position(self, start_position: int) -> None:
        """Raises PositionMismatch unless tokens may be written at `start_position`."""
        if not 0 <= start_position <= len(self.tokens):
            raise PositionMismatch(
                f"the step starts at position {start_position}; "
                f"the slot holds {len(self.tokens)} tokens",
                len(self.tokens),
            )

    def check_opening(self, opening: int) -> None:
        """Raises StaleEpoch when another stream has opened the session since."""
        if opening != self.opening:
            raise StaleEpoch("the session was opened by another stream", self.epoch)


class SlotTable:
    """Sessions by id: what has been idle longest comes first, what is open by its opening."""

    def __init__(self, slots: int, evicted: Callable[[Slot], None] = lambda _: None) -> None:
        """`evicted` is told of each idle session that loses its slot, while its KV still stands there."""
        self._evicted = evicted
        self._free = list(range(slots - 1, -1, -1))
        self._sessions: dict[str, Slot] = {}

    def open(self, session_id: str, epoch: int) -> Slot:
        """Gives the session a slot for one turn, its own if it has one.

        A free slot first, else that of the session which has been idle longest, which is evicted. A
        session that is open is taken over: the stream that had it can run nothing more. Raises StaleEpoch
        for an old epoch, Exhausted when every slot is open.
        """
        slot = self._sessions.get(session_id)
        if slot is None:
            slot = Slot(self._claim(), session_id, epoch)
        _check_epoch(slot, epoch)
        self._sessions.pop(session_id, None)
        self._sessions[session_id] = slot
        slot.epoch = epoch
        slot.open = True
        slot.opening += 1
        return slot

    def close(self, slot: Slot, opening: int) -> None:
        """Ends a turn; the KV stays. A turn that was taken over closes nothing."""
        if slot.opening == opening and slot.open:
            slot.open = False
            self._sessions[slot.session_id] = self._sessions.pop(slot.session_id)

    def find_idle(self, session_id: str, epoch: int) -> Slot | None:
        """The session's slot, if it has one. Raises StaleEpoch, or TurnRunning while it is open."""
        slot = self._sessions.get(session_id)
        if slot is None:
            return None
        _check_epoch(slot, epoch)
        if slot.open:
            raise TurnRunning("the session is open in a stream; end that one first")
        return slot

    def release(self, session_id: str, epoch: int) -> None:
        """Forgets a session. Raises StaleEpoch, or TurnRunning while the session is open."""
        slot = self.find_idle(session_id, epoch)
        if slot is not None:
            del self._sessions[session_id]
            self._free.append(slot.index)

    def holds(self, session_id: str) -> bool:
        """True while the session has a slot."""
        return session_id in self._sessions

    @property
    def session_count(self) -> int:
        """Sessions that hold a slot."""
        return len(self._sessions)

    @property
    def open_count(self) -> int:
        """Sessions whose turn runs."""
        return sum(slot.open for slot in list(self._sessions.values()))

    def _claim(self) -> int:
        if self._free:
            return self._free.pop()
        for session_id, slot in self._sessions.items():
            if not slot.open:
                del self._sessions[session_id]
                self._evicted(slot)
                return slot.index
        raise Exhausted("every slot runs a turn; try again when one has ended")


def _check_epoch(slot: Slot, epoch: int) -> None:
    if epoch < slot.epoch:
        raise StaleEpoch(
            f"epoch {epoch} is out of date; the session is owned by epoch {slot.epoch}", slot.epoch
        )
