"""One turn in virtual milliseconds, over a recorded trace of where the draft agrees.

Runs the messages of the real loops: the draft of `engine/drafting.py` as a machine without a model, the
session's own `Guesses`, rounds as in `decoder.py`. A trace says for each position whether the draft's guess,
given the true tokens before it, is the target's token. Tests compare the formulas of `window.py` with it, and
play whole policies on it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from outrider_server.core.types import decide
from outrider_server.pacing.pacer import Pacer
from outrider_server.pacing.window import Costs, Pace
from outrider_server.speculation.guesses import Guesses

RIGHT, WRONG = 1, 0
"""The target's token at every position, and any other."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a turn came to."""

    tokens: int
    rounds: int
    proposed: int
    agreed: int
    total_ms: float

    @property
    def token_ms(self) -> float:
        """Time a token."""
        return self.total_ms / self.tokens


@dataclass(frozen=True, slots=True)
class _Commit:
    """Decided tokens up to `position`, and how to draft from now on."""

    arrival_ms: float
    position: int
    lead: int
    burst: int


@dataclass(frozen=True, slots=True)
class _Message:
    """Guesses on their way to the session."""

    arrival_ms: float
    branch: int
    start_position: int
    tokens: tuple[int, ...]


class _Draft:
    """The draft service: one guess a step, one message a burst, commits read between steps."""

    def __init__(self, trace: Sequence[bool], costs: Costs) -> None:
        self._trace = trace
        self._draft_ms = costs.draft_ms
        self._way_ms = costs.round_trip_ms / 2
        self._inbox: deque[_Commit] = deque()
        self._free_ms = 0.0
        self._committed = self._sent = 0
        self._lead, self._burst = 0, 1
        self._branch = 0
        self._guesses: list[int] = []
        """For the positions from `_committed` on. What follows a wrong one never counts."""

    def commit(self, sent_ms: float, position: int, pace: Pace, draft_ms: float) -> None:
        """Sends decided tokens and the next pace. A step takes `draft_ms` from now on."""
        burst = 1 if pace.ahead else max(1, pace.lead)
        self._draft_ms = draft_ms
        self._inbox.append(_Commit(sent_ms + self._way_ms, position, pace.lead, burst))

    def next_message(self, until_ms: float) -> _Message | None:
        """Runs up to the next message; None where none arrives by then."""
        while True:
            while self._inbox and self._inbox[0].arrival_ms <= self._free_ms:
                self._read(self._inbox.popleft())
            if self._length < self._end:
                if self._free_ms + self._draft_ms + self._way_ms > until_ms:
                    return None
                message = self._guess()
                if message:
                    return message
            elif self._inbox and self._inbox[0].arrival_ms <= until_ms:
                self._free_ms = self._inbox[0].arrival_ms
            else:
                return None

    @property
    def _length(self) -> int:
        return self._committed + len(self._guesses)

    @property
    def _end(self) -> int:
        return min(self._committed + self._lead, len(self._trace))

    def _guess(self) -> _Message | None:
        self._free_ms += self._draft_ms
        self._guesses.append(RIGHT if self._trace[self._length] else WRONG)
        if self._length - self._sent < self._burst and self._length < self._end:
            return None
        start = self._sent
        self._sent = self._length
        tokens = tuple(self._guesses[start - self._committed :])
        return _Message(self._free_ms + self._way_ms, self._branch, start, tokens)

    def _read(self, commit: _Commit) -> None:
        decided = commit.position - self._committed
        if WRONG in self._guesses[:decided]:
            contradicted = self._committed + self._guesses.index(WRONG)
            self._branch += contradicted < self._sent
            self._sent = min(self._sent, contradicted)
            self._guesses.clear()
        del self._guesses[:decided]
        self._committed = commit.position
        self._sent = max(self._sent, self._committed)
        self._lead, self._burst = commit.lead, commit.burst


class _Session:
    """The session's side: buffered guesses, and how many were compared with decided tokens."""

    def __init__(self, draft: _Draft) -> None:
        self._draft = draft
        self._guesses = Guesses(())
        self.compared = self.agreed = 0

    def receive(self, until_ms: float) -> float | None:
        """Takes the next message in; the time when it came, or None where none comes by then."""
        message = self._draft.next_message(until_ms)
        if message is None:
            return None
        guesses = self._guesses
        if message.branch == guesses.branch:
            self._compare(message.tokens[: max(0, guesses.position - message.start_position)])
        guesses.receive(message.branch, message.start_position, message.tokens)
        return message.arrival_ms

    def take(self, now_ms: float, minimum: int, maximum: int) -> tuple[float, tuple[int, ...]]:
        """Waits for `minimum` guesses; the time then, and at most `maximum` of those that wait.

        Raises RuntimeError where draft and session would wait for each other for ever.
        """
        while self.receive(now_ms) is not None:
            pass
        while len(self._guesses) < minimum:
            arrival_ms = self.receive(math.inf)
            if arrival_ms is None:
                raise RuntimeError("the round waits for guesses that the draft may not make")
            now_ms = max(now_ms, arrival_ms)
        return now_ms, self._guesses.peek(maximum)

    def commit(self, now_ms: float, tokens: int) -> None:
        """Takes in what has arrived, then notes decided tokens."""
        while self.receive(now_ms) is not None:
            pass
        self._compare(self._guesses.peek(tokens))
        self._guesses.commit(self._guesses.position, [RIGHT] * tokens)

    def _compare(self, tokens: tuple[int, ...]) -> None:
        agreed = decide(tokens, [RIGHT] * len(tokens))
        self.compared += min(agreed + 1, len(tokens))
        self.agreed += agreed


ChoosePace = Callable[[int, int, int], Pace]
"""Takes what the last round brought: guesses compared, guesses agreed, tokens decided."""


def simulate(
    trace: Sequence[bool], costs: Costs, pace: Pace, ahead_costs: Costs | None = None
) -> Outcome:
    """A turn of `len(trace)` tokens at one pace. `ahead_costs` hold while both models work at once."""
    return _play(trace, costs, ahead_costs or costs, lambda compared, agreed, decided: pace)


def simulate_adaptive(
    trace: Sequence[bool], costs: Costs, pacer: Pacer, ahead_costs: Costs | None = None
) -> Outcome:
    """A turn whose pace `pacer` chooses anew each round, knowing the true costs.

    The new pace travels to the draft with the round's commit.
    """

    def choose(compared: int, agreed: int, decided: int) -> Pace:
        pacer.observe(compared, agreed, decided)
        return pacer.choose(costs, ahead_costs)

    return _play(trace, costs, ahead_costs or costs, choose)


def _play(trace: Sequence[bool], costs: Costs, ahead_costs: Costs, choose: ChoosePace) -> Outcome:
    draft = _Draft(trace, costs)
    session = _Session(draft)
    now_ms, position, rounds, proposed, agreed = 0.0, 0, 0, 0, 0
    pace = choose(0, 0, 0)
    draft.commit(now_ms, 0, pace, (ahead_costs if pace.ahead else costs).draft_ms)
    while position < len(trace):
        present = ahead_costs if pace.ahead else costs
        window = min(pace.window, len(trace) - position - 1)
        minimum = min(pace.minimum, window) if rounds else 0
        now_ms, guesses = session.take(now_ms, minimum, window)
        now_ms += present.verify(len(guesses) + 1)
        right = decide(guesses, [RIGHT] * len(guesses))
        known = session.compared, session.agreed
        session.commit(now_ms, right + 1)
        position += right + 1
        rounds, proposed, agreed = rounds + 1, proposed + len(guesses), agreed + right
        pace = choose(session.compared - known[0], session.agreed - known[1], right + 1)
        draft.commit(now_ms, position, pace, (ahead_costs if pace.ahead else costs).draft_ms)
    return Outcome(len(trace), rounds, proposed, agreed, now_ms)
