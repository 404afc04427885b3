"""Draft and session agree on branches although their messages cross.

A real DraftJob and the session's Guesses talk over two queues, each in order; hypothesis chooses who moves
next. The draft's model is a function of what its slot holds, so a stale slot would show as a wrong guess.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from types import SimpleNamespace

from fakes import VOCABULARY, continuation, next_token
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import tiny_limits
from outrider_server.core.errors import OutriderError
from outrider_server.core.types import Proposal, decide
from outrider_server.engine.drafting import DraftJob
from outrider_server.engine.layout import RowResult
from outrider_server.engine.slots import Slot
from outrider_server.speculation.guesses import Guesses

PROMPT = (3, 1, 4, 1, 0, 2)
LENGTH = 48


class Conversation:
    """A session and its draft, and the messages between them."""

    def __init__(
        self, wrong: frozenset[int], slot_tokens: Sequence[int], lead: int, burst: int
    ) -> None:
        self.truth = PROMPT + continuation(PROMPT, LENGTH - len(PROMPT))
        self.guesses = Guesses(PROMPT)
        self.emitted: list[tuple[int, Proposal]] = []
        self.to_session: deque[tuple[int, Proposal]] = deque()
        self.to_draft: deque[tuple[int, tuple[int, ...]]] = deque()
        self.lead = lead
        self._wrong = wrong
        self._taken: tuple[int, ...] = ()
        slot = Slot(0, "session", 1, list(slot_tokens), open=True, opening=1)
        limits = tiny_limits(max_context_tokens=LENGTH, width=2, prefill_width=8)
        engine = SimpleNamespace(
            limits=limits,
            check_tokens=lambda *_: None,
            turn_to=lambda *_: False,
            reach=lambda _: LENGTH,
        )
        self.job = DraftJob(engine, slot, 1, len(PROMPT), lead, self._emit, self._failed, burst)
        known = len(slot_tokens) if tuple(slot_tokens) == PROMPT[: len(slot_tokens)] else 0
        self.to_draft.append((known, PROMPT[known:]))

    def guess(self, prefix: Sequence[int]) -> int:
        """The draft's model."""
        token = next_token(prefix)
        return (token + 1) % VOCABULARY if len(prefix) in self._wrong else token

    def draft(self) -> bool:
        work = self.job.work()
        if work is None:
            return False
        slot = self.job.slot
        assert work.tokens, "every step reads something"
        assert work.start_position <= len(slot.tokens), "no gap in the slot"
        slot.write(work.start_position, work.tokens)
        result = (
            None
            if work.prefill
            else RowResult((0,) * (len(work.tokens) - 1) + (self.guess(slot.tokens),))
        )
        self.job.take(work, result, 1, 0.0)
        return True

    def session_hears(self) -> bool:
        if not self.to_session:
            return False
        branch, proposal = self.to_session.popleft()
        self.guesses.receive(branch, proposal.start_position, proposal.tokens)
        return True

    def draft_hears(self) -> bool:
        if not self.to_draft:
            return False
        self.job.commit(*self.to_draft.popleft())
        return True

    def take(self) -> bool:
        self._taken = self.guesses.peek(4)
        return True

    def decide(self) -> bool:
        """The verdict on what was taken last, which may be less than what waits by now."""
        position = self.guesses.position
        drawn = self.truth[position : position + len(self._taken) + 1]
        if len(drawn) <= len(self._taken):
            return False
        tokens = drawn[: decide(self._taken, drawn) + 1]
        self.guesses.commit(position, tokens)
        self.to_draft.append((position, tokens))
        self._taken = ()
        return True

    def check(self) -> None:
        """Every waiting guess is what the draft's model says after exactly the tokens before it."""
        prefix = list(self.truth[: self.guesses.position])
        for token in self.guesses.peek(LENGTH):
            assert token == self.guess(prefix)
            prefix.append(token)

    def settle(self) -> None:
        """Delivers everything, drafting nothing new."""
        while self.draft_hears() or self.session_hears():
            self.check()

    def _emit(self, branch: int, proposal: Proposal, _: float) -> None:
        self.emitted.append((branch, proposal))
        self.to_session.append((branch, proposal))

    def _failed(self, error: OutriderError) -> None:
        raise AssertionError(f"the draft failed: {error}")


MOVES = st.lists(
    st.sampled_from(["draft", "draft", "session_hears", "draft_hears", "take", "decide"]),
    min_size=40,
    max_size=150,
)
WRONG = st.frozensets(st.integers(6, LENGTH), min_size=2, max_size=20)
BURSTS = st.integers(1, 5)
SLOTS = st.sampled_from([(), PROMPT[:1], PROMPT[:3], PROMPT, (9, 9, 9), (3, 1, 9, 9, 9, 9)])


@settings(max_examples=150)
@given(MOVES, WRONG, SLOTS, st.integers(1, 12), BURSTS)
def test_a_waiting_guess_is_always_one_that_the_draft_would_make_again(
    moves: list[str], wrong: frozenset[int], slot_tokens: tuple[int, ...], lead: int, burst: int
) -> None:
    talk = Conversation(wrong, slot_tokens, lead, burst)
    for move in moves:
        getattr(talk, move)()
        talk.check()
    talk.settle()
    while talk.draft():
        talk.settle()
    waiting = min(lead, LENGTH - talk.guesses.position)
    assert len(talk.guesses) == waiting, "once all is heard, the whole lead is useful"


@settings(max_examples=100)
@given(MOVES, SLOTS, st.integers(1, 12), BURSTS)
def test_a_perfect_draft_is_never_dropped(
    moves: list[str], slot_tokens: tuple[int, ...], lead: int, burst: int
) -> None:
    talk = Conversation(frozenset(), slot_tokens, lead, burst)
    for move in moves:
        before = talk.guesses.position + len(talk.guesses)
        heard = talk.to_session[0] if move == "session_hears" and talk.to_session else None
        getattr(talk, move)()
        if heard is not None:
            end = heard[1].start_position + len(heard[1].tokens)
            assert talk.guesses.position + len(talk.guesses) == max(before, end)
    assert talk.guesses.branch == 0
    assert all(branch == 0 for branch, _ in talk.emitted)


@settings(max_examples=100)
@given(MOVES, WRONG, st.integers(1, 12), BURSTS)
def test_the_draft_stays_within_its_lead_and_leaves_no_gap(
    moves: list[str], wrong: frozenset[int], lead: int, burst: int
) -> None:
    talk = Conversation(wrong, PROMPT[:2], lead, burst)
    for move in moves:
        getattr(talk, move)()
        told = talk.to_draft[0][0] if talk.to_draft else talk.guesses.position
        if move == "draft" and talk.emitted:
            assert talk.emitted[-1][1].start_position < min(told + lead, LENGTH)
    ends: dict[int, int] = {}
    for branch, proposal in talk.emitted:
        assert proposal.start_position >= ends.get(branch, 0)
        ends[branch] = proposal.start_position + len(proposal.tokens)
