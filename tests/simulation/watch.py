"""The invariants: what is written and what is seen, checked in the step in which it happens.

Owns the event log of a run and what is wrong with it. Trusts neither the ledger nor the services: what a
turn has to say comes from the reference, who owns a session from the epochs that were given out.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from outrider.types import ChatMessage
from outrider_server.core.types import FinishReason
from outrider_server.session.ledger.ledger import LedgerToken, SessionRecord, TurnRecord

from .clock import PROCESS, Process, VirtualLoop
from .talk import Intent, PlainSession


@dataclass(slots=True)
class Expected:
    """A turn that was begun, and what it has to come to."""

    tokens: tuple[int, ...]
    finish_reason: FinishReason
    generated_from: int
    committed: int = 0
    """How many of its tokens were in the ledger at one time."""


class Watch(logging.Handler):
    """Watches one run. The first violation stops its loop."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__(logging.ERROR)
        self.violations: list[str] = []
        self.log: list[str] = []
        self.checks = 0
        self._loop = loop
        self._intents: dict[tuple[str, str], Intent] = {}
        self._expected: dict[tuple[str, str], Expected] = {}
        self._owners: dict[tuple[str, int], Process | None] = {}
        self._epochs: dict[str, int] = {}
        self._sessions: dict[str, PlainSession] = {}
        self._rewinds: dict[str, int | None] = {}
        self._taken_back: set[str] = set()
        self._last: dict[str, Expected] = {}

    def note(self, what: str) -> None:
        """Adds a line to the event log."""
        process = PROCESS.get()
        name = "-" if process is None else process.name
        self.log.append(f"{self._loop.time():9.4f} {name:<10} {what}")

    def digest(self) -> str:
        """Names the run: the same for the same seed."""
        return hashlib.blake2b("\n".join(self.log).encode(), digest_size=8).hexdigest()

    def check(self, holds: bool, otherwise: str) -> bool:
        """Records a violation unless it holds."""
        self.checks += 1
        if not holds:
            self.violate(otherwise)
        return holds

    def violate(self, what: str) -> None:
        """Something is wrong; the run ends here."""
        self.note(f"VIOLATION {what}")
        self.violations.append(what)
        self._loop.stop()

    def emit(self, record: logging.LogRecord) -> None:
        """A service has logged an error: a bug, not a fault."""
        cause = record.exc_info[1] if record.exc_info else None
        self.violate(f"a service logged: {record.getMessage()} {cause!r}")

    def intend(self, session_id: str, request_id: str, intent: Intent) -> None:
        """A client is going to ask for a turn."""
        self._intents[session_id, request_id] = intent

    def cuts(self, session_id: str, position: int | None) -> None:
        """A client is going to rewind a session; with None it has ended to."""
        self._rewinds[session_id] = position

    def takes_back(self, session_id: str) -> int:
        """A client is going to take the last turn back; the position that the session then has."""
        self._taken_back.add(session_id)
        return len(self._sessions[session_id].turns[-1].found)

    def told(self, session_id: str, messages: Sequence[ChatMessage]) -> None:
        """A client was told the conversation, while nobody writes to the session."""
        session = self._sessions.get(session_id, PlainSession())
        told = [(message.role, message.content) for message in messages]
        self.note(f"is told {len(told)} messages of {session_id}")
        self.check(told == session.messages(), "the conversation is another one")

    def owned(self, session_id: str, epoch: int) -> None:
        """A process has taken a session over."""
        self.note(f"owns {session_id} in epoch {epoch}")
        self.check(epoch > self._epochs.get(session_id, 0), "an epoch was given out twice")
        self._epochs[session_id] = epoch
        self._owners[session_id, epoch] = PROCESS.get()

    def prompted(self, record: TurnRecord, epoch: int, held: Sequence[int]) -> None:
        """A turn was begun and its prompt written."""
        session_id, request_id = record.session_id, record.request_id
        self.note(f"begins {session_id} {request_id} at {record.start_position}")
        self._check_owner(session_id, epoch)
        intent = self._intents.get((session_id, request_id))
        self.check((session_id, request_id) not in self._expected, "a prompt was recorded twice")
        if intent is None:
            self.violate("a turn was begun that nobody asked for")
            return
        session = self._sessions.setdefault(session_id, PlainSession())
        turn = session.begin(intent)
        rewound = len(turn.found) - turn.start
        self.check(list(held) == session.tokens, "another prompt was recorded")
        self.check(
            (record.start_position, record.rewound_tokens) == (turn.start, rewound),
            "a turn keeps other tokens than agree",
        )
        if rewound:
            self.owned(session_id, epoch + 1)
        tokens, reason = session.due()
        expected = Expected(tokens, reason, record.generated_from)
        self._expected[session_id, request_id] = self._last[session_id] = expected

    def appended(
        self, session_id: str, epoch: int, length: int, held: Sequence[LedgerToken]
    ) -> None:
        """Tokens of the last turn were written; `held` is all that the ledger has of it now."""
        expected, session = self._last[session_id], self._sessions[session_id]
        self.note(f"appends at {length} of {session_id}")
        self._check_owner(session_id, epoch)
        self.check(length == len(session.tokens), "tokens were written elsewhere")
        tokens = tuple(entry.token for entry in held)
        if self.check(
            tokens == expected.tokens[: len(tokens)], "the ledger differs from the target alone"
        ):
            expected.committed = len(tokens)
            session.generated(tokens)

    def rewound(self, record: SessionRecord, epoch: int, held: Sequence[int]) -> None:
        """A session was cut, or only fenced, by whoever held `epoch`."""
        session_id = record.session_id
        self.note(f"rewinds {session_id} to {record.length}")
        self._check_owner(session_id, epoch)
        session = self._sessions.setdefault(session_id, PlainSession())
        if record.length < len(session.tokens):
            self.check(
                self._rewinds.get(session_id) == record.length, "a session was cut unasked for"
            )
            session.rewind(record.length)
        self.check(list(held) == session.tokens, "a rewind left other tokens than the first ones")
        self.owned(session_id, record.epoch)

    def taken_back(
        self, record: SessionRecord, epoch: int, turn_index: int, held: Sequence[int]
    ) -> None:
        """A turn was taken back by whoever held `epoch`."""
        session_id = record.session_id
        self.note(f"takes turn {turn_index} of {session_id} back")
        self._check_owner(session_id, epoch)
        session = self._sessions[session_id]
        self.check(session_id in self._taken_back, "a turn was taken back unasked for")
        self.check(turn_index == len(session.turns) - 1, "another turn was taken back")
        self._taken_back.discard(session_id)
        session.take_back()
        self.check(list(held) == session.tokens, "a turn taken back left other tokens than before")
        self.owned(session_id, record.epoch)

    def forked(self, session_id: str, copy: SessionRecord, held: Sequence[int]) -> None:
        """A session was copied."""
        self.note(f"copies {copy.length} of {session_id} to {copy.session_id}")
        session = self._sessions.get(session_id, PlainSession()).copy(copy.length)
        self.check(list(held) == session.tokens, "a copy has other tokens than the original")
        self._sessions[copy.session_id] = session

    def _check_owner(self, session_id: str, epoch: int) -> None:
        self.check(epoch == self._epochs.get(session_id), "somebody else than the owner wrote")
        owner = self._owners.get((session_id, epoch))
        self.check(owner is PROCESS.get(), "a process wrote in the epoch of another")

    def seen(self, session_id: str, request_id: str, due: int, event: Any) -> None:
        """A client was shown a token, where it has `due` already."""
        self.note(f"sees {event.index}: {event.token} of {request_id}")
        self.check(event.index == due, f"token {event.index} was shown where {due} was due")
        expected = self._expected.get((session_id, request_id))
        if expected is None:
            self.violate("a turn was shown that was not begun")
            return
        if not self.check(
            event.index < expected.committed, "a token was seen before it was committed"
        ):
            return
        self.check(
            event.token == expected.tokens[event.index],
            "a client saw another token than the target's",
        )

    def ended(self, session_id: str, request_id: str, tokens: Sequence[int], summary: Any) -> None:
        """A client has a whole turn."""
        self.note(f"has {request_id} whole: {summary.finish_reason}")
        expected = self._expected[session_id, request_id]
        self.check(
            tuple(tokens) == expected.tokens, "a turn ended with other tokens than the target's"
        )
        self.check(
            summary.finish_reason.value == expected.finish_reason.value,
            f"a turn ended by {summary.finish_reason.value}, not {expected.finish_reason.value}",
        )
        self.check(summary.tokens == len(expected.tokens), "the summary counts other tokens")
        self.check(
            summary.position == expected.generated_from + len(expected.tokens),
            "the summary names another position",
        )
