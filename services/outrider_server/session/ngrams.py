"""What drafting has learnt of sessions, kept from one turn to the next: n-gram indexes and chances.

Owns which sessions have one and forgets the least recently used. An entry is never trusted: opening it
compares it with the session's tokens, so a session that was rewound, or went on in another process, costs
some indexing and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

from ..pacing.estimates import AgreementEstimate
from ..speculation.confidence import Confidence
from ..speculation.ngram import NgramDrafter
from ..speculation.suffix_index import SuffixIndex

MAX_SESSIONS = 4096
MAX_TOKENS = 500_000
"""Tokens in all indexes together: at most about 150 MB."""
LATEST_SESSIONS = 32
"""Sessions that a new one begins after."""


@dataclass(slots=True)
class _Memory:
    """What is known of one session, and who uses it."""

    index: SuffixIndex
    confidence: Confidence
    agreement: AgreementEstimate
    drafter: NgramDrafter | None = None


class NgramMemory:
    """An index and the learnt chances for each session, least recently opened first.

    Indexes grow while turns run; the bound of `max_tokens` is restored whenever a turn opens. The session
    opened last always keeps its own.
    """

    def __init__(self, max_tokens: int = MAX_TOKENS) -> None:
        self._max_tokens = max_tokens
        self._sessions: OrderedDict[str, _Memory] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, session_id: str, tokens: Sequence[int]) -> NgramDrafter:
        """A drafter for a turn after `tokens`, all of the session.

        A turn from which the session was taken over may still use the drafter before; that one retires.
        """
        memory = self._memory(session_id)
        if memory.drafter is not None:
            memory.drafter.retire()
        memory.drafter = drafter = NgramDrafter(tokens, memory.index, memory.confidence)
        self._make_room()
        return drafter

    def agreement(self, session_id: str) -> AgreementEstimate:
        """How often the draft model's guesses agree in the session."""
        memory = self._memory(session_id)
        self._make_room()
        return memory.agreement

    def forget(self, session_id: str) -> None:
        """Drops what is kept of a session, if anything is."""
        self._sessions.pop(session_id, None)

    def _memory(self, session_id: str) -> _Memory:
        """What is known of a session, which becomes the latest. A new one begins with what others taught."""
        if session_id not in self._sessions:
            latest = list(islice(reversed(self._sessions.values()), LATEST_SESSIONS))
            confidence = Confidence.after([memory.confidence for memory in latest])
            agreement = AgreementEstimate()
            if latest:
                agreement = AgreementEstimate(fmean(memory.agreement.value for memory in latest))
            self._sessions[session_id] = _Memory(SuffixIndex(), confidence, agreement)
        self._sessions.move_to_end(session_id)
        return self._sessions[session_id]

    def _make_room(self) -> None:
        held = sum(len(memory.index) for memory in self._sessions.values())
        while len(self._sessions) > 1 and (
            held > self._max_tokens or len(self._sessions) > MAX_SESSIONS
        ):
            _, oldest = self._sessions.popitem(last=False)
            held -= len(oldest.index)
