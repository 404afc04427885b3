"""A token's bits in a recorded step: they depend on the token, its slot and the weights alone."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import pytest
import torch
from conformance.architectures import SERVED, VOCABULARY
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import needs_kernels, packable_llama
from outrider_server.engine.kernels.library import kernel_library

from .models import MOST, SLOTS, Piece, Steps, engine_model, library_model, text_of

pytestmark = needs_kernels
COUNT = 70
NAMES = ["Llama", "Gemma 2", "Qwen2-MoE", "Bloom"]
of_some = pytest.mark.parametrize("name", NAMES)


@dataclass(frozen=True)
class Subject:
    """A model's steps, and the logits of a text that was read alone, token by token."""

    steps: Steps
    text: torch.Tensor
    alone: torch.Tensor


@functools.cache
def subject(name: str) -> Subject:
    architecture = next(one for one in SERVED if one.name == name)
    with torch.no_grad():
        steps = Steps(engine_model(architecture, library_model(architecture, torch.bfloat16)))
    text = text_of(COUNT, VOCABULARY)
    kernel_library().set_threads(1)
    alone = [steps.decide(text, Piece(0, at, at + 1)) for at in range(COUNT)]
    return Subject(steps, text, torch.cat(alone))


@of_some
@settings(max_examples=15)
@given(
    cuts=st.sets(st.integers(1, COUNT - 1), max_size=6),
    slots=st.permutations(range(SLOTS)),
    threads=st.integers(1, 4),
    data=st.data(),
)
def test_bits_are_the_same_in_any_slot_and_step_and_on_any_threads(
    name: str, cuts: set[int], slots: list[int], threads: int, data: st.DataObject
) -> None:
    """Some of the text is decided and some only read, before or behind other slots' tokens."""
    this = subject(name)
    kernel_library().set_threads(threads)
    ends = [*sorted(cuts), COUNT]
    for begin, end in zip([0, *ends], ends, strict=False):
        piece = Piece(slots[0], begin, end)
        if data.draw(st.booleans(), label="only read"):
            this.steps.read(this.text, piece)
            continue
        most = min(30, (MOST - (end - begin)) // 3)
        others = [Piece(slot, 0, data.draw(st.integers(1, most))) for slot in slots[1:]]
        place = data.draw(st.integers(0, len(others)))
        got = this.steps.decide(this.text, *others[:place], piece, *others[place:])
        first = sum(other.end for other in others[:place])
        assert torch.equal(got[first : first + end - begin], this.alone[begin:end])


@of_some
def test_what_stands_in_a_slot_behind_its_tokens_reaches_nothing(name: str) -> None:
    this = subject(name)
    this.steps.spoil(2)
    got = this.steps.decide(this.text, Piece(2, 0, 30))
    assert torch.equal(got, this.alone[:30])


@of_some
def test_a_slot_that_holds_no_numbers_leaves_others_alone(name: str) -> None:
    this = subject(name)
    this.steps.spoil(3)
    got = this.steps.decide(this.text, Piece(1, 0, 20), Piece(3, 20, 25), Piece(0, 0, 20))
    assert torch.equal(got[:20], this.alone[:20])
    assert got[20:25].isnan().all()
    assert torch.equal(got[25:], this.alone[:20])
    this.steps.cache.wipe(3)


def test_a_token_whose_weights_are_no_numbers_leaves_others_alone() -> None:
    model = packable_llama(seed=3)
    text = text_of(20, 60)
    text[10] = 60
    wanted = Steps(packable_llama(seed=3)).decide(text, Piece(0, 0, 20), Piece(1, 0, 10))
    with torch.no_grad():
        model.model.embed_tokens.weight[60] = math.nan
    got = Steps(model).decide(text, Piece(0, 0, 20), Piece(1, 0, 10))
    assert got[10:20].isnan().all(), "what comes later in its slot attends to it"
    assert torch.equal(got[:10], wanted[:10])
    assert torch.equal(got[20:], wanted[20:])


def test_reading_writes_keys_and_values_and_no_logits() -> None:
    this = subject("Llama")
    decided = this.steps.program.decide(torch.tensor([[5], [1], [0], [1]]))
    kept = decided.clone()
    this.steps.read(this.text, Piece(2, 0, 40))
    assert torch.equal(decided, kept)
    got = this.steps.decide(this.text, Piece(2, 40, 50))
    assert torch.equal(got, this.alone[40:50])


def test_history_takes_every_token_that_is_read() -> None:
    this = subject("Llama")
    this.steps.read(this.text, Piece(3, 5, 30))
    this.steps.decide(this.text, Piece(3, 30, 33))
    assert torch.equal(this.steps.history[3, 5:33], this.text[5:33])


def test_a_step_of_no_tokens_decides_nothing() -> None:
    inputs = torch.empty((4, 0), dtype=torch.int64)
    assert subject("Llama").steps.program.decide(inputs).shape == (0, VOCABULARY)
