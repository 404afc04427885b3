"""Sessions that give up their slot: their KV goes to host memory and comes back, or is dropped."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models_for_tests import (
    loaded,
    needs_kernels,
    packable_llama,
    park_all,
    tiny_limits,
    tiny_llama,
)
from outrider_server.core.errors import InvalidRequest, StaleEpoch, TurnRunning
from outrider_server.core.types import Draw, SamplingParams, usable_length
from outrider_server.engine.engine import Engine, OpenedSlot
from outrider_server.engine.parking import Layers, ParkedSession, ParkedSessions
from transformers import PreTrainedModel

GREEDY = Draw(SamplingParams(temperature=0.0), 0, 0)
REPEATS_COST = Draw(SamplingParams(temperature=0.9, repetition_penalty=1.6), 5, 3)
PLENTY = 1 << 24


def engine_of(slots: int, park_bytes: int, model: PreTrainedModel | None = None) -> Engine:
    mode = "off" if model is None else "auto"
    limits = tiny_limits(slots=slots, row_buckets=(1,))
    return Engine(loaded(model or tiny_llama()), limits, mode, park_bytes=park_bytes)


def prompt_of(session: str) -> list[int]:
    return [(ord(session) * 7 + 3 * index) % 61 for index in range(20)]


def turn(engine: Engine, session: str, tokens: list[int], draw: Draw, count: int = 5) -> int:
    """Adds `count` tokens to a session's `tokens` in one turn; returns how many the slot knew."""
    opened = engine.open(session, 1, len(tokens), draw)
    known = usable_length(opened.length, opened.digest, tokens)
    for start in range(known, len(tokens) - 1, 8):
        engine.prefill(opened.slot, start, tuple(tokens[start : min(start + 8, len(tokens) - 1)]))
    for _ in range(count):
        row = (opened.slot, len(tokens) - 1, (tokens[-1],))
        tokens += engine.decide([row]).rows[0].tokens
    engine.table.close(opened.slot, opened.opening)
    return known


def held(engine: Engine, session: str, tokens: int = 20) -> OpenedSlot:
    """A session that holds so many tokens of its prompt, its turn ended."""
    opened = engine.open(session, 1, 0, GREEDY)
    for start in range(0, tokens, 8):
        engine.prefill(
            opened.slot, start, tuple(prompt_of(session)[start : min(start + 8, tokens)])
        )
    engine.table.close(opened.slot, opened.opening)
    return opened


@pytest.mark.parametrize("draw", [GREEDY, REPEATS_COST], ids=["greedy", "penalized"])
@pytest.mark.parametrize("packed", [False, pytest.param(True, marks=needs_kernels)])
def test_sessions_that_share_one_slot_go_on_as_if_each_had_its_own(
    packed: bool, draw: Draw
) -> None:
    models = (packable_llama, packable_llama) if packed else (lambda: None, lambda: None)
    narrow, wide = engine_of(1, PLENTY, models[0]()), engine_of(4, 0, models[1]())
    texts = [{session: prompt_of(session) for session in "abcd"} for _ in range(2)]
    for round_number in range(3):
        for session in "abcd":
            known = [
                turn(engine, session, tokens[session], draw)
                for engine, tokens in zip((narrow, wide), texts, strict=True)
            ]
            assert known[0] == known[1] == (0 if round_number == 0 else 5 * round_number + 19)
    assert texts[0] == texts[1]
    assert narrow.parked.restored == 8
    assert narrow.counters.prefilled_tokens == wide.counters.prefilled_tokens


def test_without_memory_for_it_a_session_starts_again() -> None:
    engine = engine_of(1, 0)
    texts = {session: prompt_of(session) for session in "ab"}
    for session in "abab":
        assert turn(engine, session, texts[session], GREEDY) == 0
    assert len(engine.parked) == engine.parked.parked == 0
    assert engine.parked.dropped == 3, "each but the last"


def test_a_full_budget_drops_what_was_parked_longest_ago() -> None:
    engine = engine_of(1, PLENTY)
    held(engine, "a")
    held(engine, "b")
    engine.parked.budget_bytes = 2 * engine.parked.byte_count
    for session in "cd":
        held(engine, session)
    assert engine.open("b", 1, 20, GREEDY).length == 20
    assert engine.parked.dropped == 1
    assert engine.parked.get("a", 1) is None
    assert engine.parked.get("b", 1) is None, "it is in a slot"
    assert engine.parked.get("c", 1) is not None


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 6)), max_size=30))
def test_what_is_parked_never_exceeds_the_budget(puts: list[tuple[str, int]]) -> None:
    parked = ParkedSessions(budget_bytes=4 * 8 * 4)
    for session, length in puts:
        layers = Layers(((torch.zeros((1, length, 4)), torch.zeros((1, length, 4))),))
        kept = parked.put(session, ParkedSession(1, (0,) * length, layers))
        assert kept == (length <= 4)
        assert (parked.get(session, 1) is not None) == kept
        sizes = [parked.get(name, 1) for name in "abcdef"]
        total = sum(session.byte_count for session in sizes if session is not None)
        assert parked.byte_count == total <= parked.budget_bytes
        assert len(parked) == sum(session is not None for session in sizes)


def test_an_old_owner_cannot_open_or_release_a_parked_session() -> None:
    engine = engine_of(1, PLENTY)
    opened = engine.open("a", 5, 0, GREEDY)
    engine.prefill(opened.slot, 0, (1, 2, 3))
    engine.table.close(opened.slot, opened.opening)
    held(engine, "b")
    for refused in (lambda: engine.open("a", 4, 3, GREEDY), lambda: engine.release("a", 4)):
        with pytest.raises(StaleEpoch) as error:
            refused()
        assert error.value.current_epoch == 5
    assert engine.table.holds("b"), "a refusal evicts nobody"
    engine.release("a", 5)
    assert engine.parked.byte_count == 0
    assert engine.open("a", 1, 0, GREEDY).length == 0


def test_a_session_that_gives_its_slot_up_is_parked_and_never_in_a_turn() -> None:
    engine = engine_of(2, PLENTY)
    held(engine, "a")
    park_all(engine)
    assert not engine.table.holds("a")
    assert len(engine.parked) == 1
    assert engine.open("a", 1, 20, GREEDY).length == 20
    park_all(engine)
    assert engine.table.holds("a")
    assert len(engine.parked) == 0


def test_rewinding_a_parked_session_keeps_what_is_left() -> None:
    engine = engine_of(1, PLENTY)
    held(engine, "a")
    held(engine, "b")
    assert engine.open("a", 1, 7, GREEDY).slot.tokens == prompt_of("a")[:7]


@pytest.mark.parametrize("parked", [False, True])
def test_a_fork_goes_on_like_the_session_it_was_copied_from(parked: bool) -> None:
    engine = engine_of(2, PLENTY)
    held(engine, "a")
    if parked:
        park_all(engine)
    assert engine.fork("a", "f", 12, 1) == 12
    assert engine.fork("a", "g", 99, 1) == 20
    text, own = [*prompt_of("a")[:12], 9], [*prompt_of("a")[:12], 9]
    assert turn(engine, "f", text, GREEDY) == 12
    assert turn(engine_of(1, 0), "fresh", own, GREEDY) == 0
    assert text == own
    whole = [*prompt_of("a"), 9]
    assert turn(engine, "g", whole, GREEDY) == 20


def test_a_fork_of_nothing_is_empty_and_what_cannot_be_is_refused() -> None:
    engine = engine_of(2, PLENTY)
    assert engine.fork("unknown", "f", 12, 1) == 0
    opened = held(engine, "a")
    for fork, length in (("a", 1), ("b", -1)):
        with pytest.raises(InvalidRequest) as refused:
            engine.fork("a", fork, length, 1)
        assert refused.value.field == "fork_session_id"
    engine.open("a", 1, 20, GREEDY)
    with pytest.raises(TurnRunning):
        engine.fork("a", "f", 3, 1)
    assert opened.slot.tokens == prompt_of("a")
    assert len(engine.parked) == 0
