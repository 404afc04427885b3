"""The fixed-shape step: its logits are the library's own, whatever was rolled back or how it was cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import VOCABULARY_SIZE, loaded, tiny_limits, tiny_llama, tiny_runner
from outrider_server.engine.layout import Row
from outrider_server.engine.noise import gumbel_noise
from outrider_server.engine.sampling import DrawTable
from outrider_server.engine.step import NOT_FINITE, StepRunner
from outrider_server.speculation.types import Draw, SamplingParams
from transformers import GPT2Config, GPT2LMHeadModel

LIBRARY = tiny_llama()
RUNNER = tiny_runner()
GREEDY = Draw(SamplingParams(temperature=0.0), 0, 0)
TOKENS = st.lists(st.integers(0, VOCABULARY_SIZE - 1), min_size=1, max_size=40).map(tuple)


def library_logits(tokens: tuple[int, ...]) -> torch.Tensor:
    """The model's full forward pass with the library's attention and no cache, [T, V]."""
    with torch.no_grad():
        return LIBRARY(torch.tensor([tokens])).logits[0]


def close(got: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(TOKENS, st.integers(0, 3), st.lists(st.integers(1, 8), min_size=40, max_size=40))
def test_any_chunking_gives_the_librarys_logits(
    tokens: tuple[int, ...], slot: int, sizes: list[int]
) -> None:
    pieces, start = [], 0
    for size in sizes:
        part = tokens[start : start + size]
        if part:
            pieces.append(RUNNER.logits([Row(slot, start, part)], 1)[0].clone())
        start += len(part)
    close(torch.cat(pieces), library_logits(tokens))


EVENTS = st.lists(
    st.tuples(st.integers(0, 3), st.floats(0, 1), st.integers(1, 8), st.booleans()),
    min_size=1,
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(EVENTS, st.integers(0, 2**16))
def test_ragged_rollbacks_never_leave_a_stale_entry(
    events: list[tuple[int, float, int, bool]], seed: int
) -> None:
    """Slots are cut back at random and continued otherwise, up to four of them in one step."""
    generator = torch.Generator().manual_seed(seed)
    held: dict[int, tuple[int, ...]] = dict.fromkeys(range(4), ())
    batch: dict[int, Row] = {}

    def run() -> None:
        logits = RUNNER.logits(list(batch.values()), 4)
        for index, row in enumerate(batch.values()):
            held[row.slot] = held[row.slot][: row.start_position] + row.tokens
            wanted = library_logits(held[row.slot])[row.start_position :]
            close(logits[index], wanted)
        batch.clear()

    for slot, keep, size, prefill in events:
        start = int(keep * len(held[slot]))
        size = min(size, 40 - start)
        tokens = tuple(torch.randint(VOCABULARY_SIZE, (size,), generator=generator).tolist())
        if not tokens:
            continue
        if prefill:
            RUNNER.prefill(Row(slot, start, tokens))
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
    close(runner.logits([Row(0, 29, tokens[29:])], 1)[0], wanted[29:])


def test_a_step_decides_what_the_tokens_before_it_decide_alone() -> None:
    """Proposal and padding are in the same step, yet row i depends on the tokens up to i only."""
    tokens = tuple(range(10, 26))
    draw = Draw(SamplingParams(temperature=0.8, top_k=9, presence_penalty=0.5), 11, 4)
    RUNNER.draws.write(1, draw)
    RUNNER.prefill(Row(1, 0, tokens[:8]))
    together = RUNNER.decide([Row(1, 8, tokens[8:])], 1)[0].tokens
    one_by_one = [
        RUNNER.decide([Row(1, 8 + k, tokens[8 + k :][:1])], 1)[0].tokens[0] for k in range(8)
    ]
    assert list(together) == one_by_one


def test_logprobs_are_of_the_model_before_any_sampling() -> None:
    sampling = SamplingParams(temperature=2.0, top_k=3, logit_bias={5: 9.0})
    RUNNER.draws.write(2, Draw(sampling, 1, 0, logprobs=4))
    tokens = (7, 8, 9)
    result = RUNNER.decide([Row(2, 0, tokens)], 1)[0]
    wanted = library_logits(tokens).log_softmax(-1)
    assert len(result.logprobs) == 3
    for place, (drawn, found) in enumerate(zip(result.tokens, result.logprobs, strict=True)):
        assert found.logprob == pytest.approx(float(wanted[place, drawn]), abs=1e-4)
        assert [token for token, _ in found.top] == wanted[place].topk(4).indices.tolist()
    RUNNER.draws.write(2, GREEDY)
    assert RUNNER.decide([Row(2, 0, tokens)], 1)[0].logprobs == ()


def test_more_logprobs_than_tokens_are_all_of_them() -> None:
    runner = tiny_runner(tiny_llama(vocabulary_size=6))
    runner.draws.write(0, Draw(SamplingParams(), 1, 0, logprobs=20))
    assert len(runner.decide([Row(0, 0, (1,))], 1)[0].logprobs[0].top) == 6


def test_no_number_decides_nothing_and_spares_the_neighbours() -> None:
    model = tiny_llama()
    model.model.embed_tokens.weight.data[13] = torch.nan
    runner = tiny_runner(model)
    for slot in range(2):
        runner.draws.write(slot, GREEDY)
    wanted = runner.decide([Row(1, 0, (1, 2))], 4)[0]
    first, second = runner.decide([Row(0, 0, (1, 13)), Row(1, 0, (1, 2))], 4)
    assert NOT_FINITE in first.tokens
    assert second == wanted


def test_the_draw_table_is_indexed_by_slot_not_by_row() -> None:
    forced = [SamplingParams(temperature=0.0, logit_bias={slot: 1e4}) for slot in range(4)]
    for slot, sampling in enumerate(forced):
        RUNNER.draws.write(slot, Draw(sampling, 0, 0))
    results = RUNNER.decide([Row(slot, 0, (1,)) for slot in (3, 0, 2)], 4)
    assert [result.tokens for result in results] == [(3,), (0,), (2,)]


def test_a_row_of_the_largest_seed_draws() -> None:
    table = DrawTable(1, torch.device("cpu"))
    table.write(0, Draw(SamplingParams(), 2**64 - 1, 0))
    assert int(table.seed[0]) == -1


def test_off_and_too_small_say_why_they_do_not_compile() -> None:
    assert not RUNNER.compiled
    assert RUNNER.compile_note == "compilation is switched off"
    auto = StepRunner(loaded(tiny_llama()), tiny_limits(), "auto")
    assert not auto.compiled
    assert auto.compile_note.startswith(("the model is too small", "no C++ compiler"))


def test_compiled_noise_equals_eager_noise() -> None:
    """The one compiled test: noise must be the same whichever way a service runs.

    Compiled logarithms may round the last bit otherwise; the 53 bits under them may not differ at all, so
    the bound is a few units in the last place of values below 40.
    """
    compiled = torch.compile(gumbel_noise, fullgraph=True, dynamic=False)
    seeds, positions = torch.tensor([3, -1]), torch.tensor([[0, 1, 99], [2**31, 5, 7]])
    try:
        got = compiled(seeds, positions, 33)
    except torch._dynamo.exc.TorchDynamoException:
        pytest.skip("no compiler on this machine")
    torch.testing.assert_close(got, gumbel_noise(seeds, positions, 33), rtol=1e-13, atol=1e-13)
