"""The fixed-shape step: its logits are the model's own, whatever was rolled back or how it was cut."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import VOCABULARY_SIZE, loaded, needs_kernels, packed_runner, tiny_limits
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.layout import Row
from outrider_server.engine.step import StepRunner
from transformers import GPT2Config, GPT2LMHeadModel

from .subjects import ALIGNED, PACKED, Subject, both, fresh_logits

TOKENS = st.lists(st.integers(0, VOCABULARY_SIZE - 1), min_size=1, max_size=40).map(tuple)


@both
def test_the_layout_is_the_one_that_is_meant(subject: Subject) -> None:
    assert subject.runner.layout.packed == (subject is PACKED)


@both
@settings(max_examples=25)
@given(
    tokens=TOKENS,
    slot=st.integers(0, 3),
    sizes=st.lists(st.integers(1, 8), min_size=40, max_size=40),
)
def test_any_chunking_gives_the_models_logits(
    subject: Subject, tokens: tuple[int, ...], slot: int, sizes: list[int]
) -> None:
    pieces, start = [], 0
    for size in sizes:
        part = tokens[start : start + size]
        if part:
            pieces.append(subject.runner.logits([Row(slot, start, part)], 1)[0].clone())
        start += len(part)
    subject.check(torch.cat(pieces), subject.wanted(tokens))


EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.floats(0, 1), st.integers(1, 8), st.booleans()),
    min_size=1,
    max_size=12,
)


@both
@settings(max_examples=25)
@given(events=EVENTS, seed=st.integers(0, 2**16))
def test_ragged_rollbacks_never_leave_a_stale_entry(
    subject: Subject, events: list[tuple[int, float, int, bool]], seed: int
) -> None:
    """Slots are cut back at random and continued otherwise, up to four of them in one step."""
    generator = torch.Generator().manual_seed(seed)
    held: dict[int, tuple[int, ...]] = dict.fromkeys(range(4), ())
    batch: dict[int, Row] = {}

    def run() -> None:
        logits = subject.runner.logits(list(batch.values()), 4)
        for index, row in enumerate(batch.values()):
            held[row.slot] = held[row.slot][: row.start_position] + row.tokens
            wanted = subject.wanted(held[row.slot])[row.start_position :]
            subject.check(logits[index], wanted)
        batch.clear()

    for slot, keep, size, prefill in events:
        start = int(keep * len(held[slot]))
        size = min(size, 40 - start)
        tokens = tuple(torch.randint(VOCABULARY_SIZE, (size,), generator=generator).tolist())
        if not tokens:
            continue
        if prefill:
            subject.runner.prefill(Row(slot, start, tokens))
            held[slot] = held[slot][:start] + tokens
            batch.pop(slot, None)
        elif slot not in batch:
            batch[slot] = Row(slot, start, tokens)
        else:
            run()
    if batch:
        run()


def test_the_last_positions_of_the_context_can_be_read() -> None:
    """Padding reaches beyond the context; models that look positions up have no entry there."""
    config = GPT2Config(
        vocab_size=17,
        n_positions=32,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    model = GPT2LMHeadModel(config).eval()
    tokens = tuple(range(16)) * 2
    with torch.no_grad():
        wanted = model(torch.tensor([tokens])).logits[0]
    runner = StepRunner(loaded(model), tiny_limits(max_context_tokens=32), "off")
    runner.prefill(Row(0, 0, tokens[:16]))
    runner.prefill(Row(0, 16, tokens[16:29]))
    ALIGNED.check(runner.logits([Row(0, 29, tokens[29:])], 1)[0], wanted[29:])


@needs_kernels
@settings(max_examples=20)
@given(
    lengths=st.lists(st.integers(1, 8), min_size=5, max_size=32),
    starts=st.lists(st.integers(0, 30), min_size=32, max_size=32),
)
def test_many_short_rows_share_a_packed_step(lengths: list[int], starts: list[int]) -> None:
    """As many rows as their tokens fit, far more than the bucket has rows of full width."""
    runner = MANY
    texts = [tuple((7 * slot + 5 * k) % VOCABULARY_SIZE for k in range(40)) for slot in range(32)]
    fit = runner.layout.rows_that_fit(lengths, 4 * 8)
    rows = []
    for slot, length in enumerate(lengths[:fit]):
        start, text = starts[slot], texts[slot]
        for begin in range(0, start, 16):
            runner.prefill(Row(slot, begin, text[begin : min(begin + 16, start)]))
        rows.append(Row(slot, start, text[start : start + length]))
    for row, got in zip(rows, runner.logits(rows, 4), strict=True):
        end = row.start_position + len(row.tokens)
        PACKED.check(got, fresh_logits(texts[row.slot][:end])[row.start_position :])


MANY = packed_runner(limits=tiny_limits(slots=32, row_buckets=(4,)))


@needs_kernels
def test_the_draws_of_packed_steps_are_those_of_plain_sampling() -> None:
    """Over the same logits; only a near tie of two scores could tell the two apart."""
    runner = packed_runner()
    rows = [Row(slot, 0, tuple(range(2 + slot, 3 + 3 * slot))) for slot in range(4)]
    for slot in range(4):
        runner.draws.write(slot, Draw(SamplingParams(temperature=0.5 * slot), 9 + slot, 1))
    drawn = [result.tokens for result in runner.decide(rows, 2)]
    inputs = runner._fill(rows, 16)
    logits, best = runner.forward.decide(inputs)
    wanted = runner._draw_sampled(inputs, logits, best).tolist()
    assert [token for tokens in drawn for token in tokens] == wanted
