"""What models compute from the length of a session: the rule, the tables, and what is refused."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from unittest import mock

import pytest
import torch
import transformers
from models_for_tests import (
    llama_config,
    loaded,
    needs_kernels,
    packed_engine,
    park_all,
    tiny_engine,
    tiny_limits,
    tiny_llama,
    tiny_runner,
)
from outrider_server.core.errors import ModelRefused
from outrider_server.core.types import Draw, Proposal, SamplingParams
from outrider_server.engine import forward_choice
from outrider_server.engine.audit import audit_shapes
from outrider_server.engine.drafting import DraftJob
from outrider_server.engine.layout import Row
from outrider_server.engine.lengths import (
    ANY_LENGTH,
    REREAD_BY_LIBRARY,
    LengthRule,
    furthest_context,
    length_rule,
    longest_context,
)
from outrider_server.engine.model import rotary
from outrider_server.engine.model.rotary import rotate_by_length
from outrider_server.engine.step import StepRunner
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

BORDER, LONGEST = 32, 96
ROPE: dict[str, object] = {"rope_theta": 10000.0, "original_max_position_embeddings": BORDER}
LONGROPE = ROPE | {
    "rope_type": "longrope",
    "factor": 3.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
}
DYNAMIC: dict[str, object] = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0}
BY_TURN = LengthRule(BORDER)
REREAD = LengthRule(BORDER, reread=True)
GROWS = LengthRule(BORDER, grows=True)
SMALL: dict[str, object] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": LONGEST,
    "pad_token_id": None,
}
PROMPT = tuple((17 * index + 3) % 61 for index in range(BORDER - 4))


def longrope_llama() -> transformers.LlamaForCausalLM:
    return tiny_llama(rope_parameters=dict(LONGROPE), max_position_embeddings=LONGEST)


def tiny_phi3() -> transformers.PreTrainedModel:
    """Its generation reads all anew where the context outgrows the border."""
    torch.manual_seed(3)
    rope = {"rope_parameters": dict(LONGROPE), "original_max_position_embeddings": BORDER}
    config = Phi3Config(**SMALL, **rope, initializer_range=0.3)
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("rule", "length", "generated_from", "reading"),
    [
        (ANY_LENGTH, 10**9, 10**9, 0),
        (BY_TURN, 90, BORDER, 0),
        (BY_TURN, 90, BORDER + 1, BORDER + 1),
        (BY_TURN, 90, 80, BORDER + 1),
        (GROWS, 90, BORDER, 0),
        (GROWS, 90, 80, 80),
        (REREAD, BORDER, BORDER, 0),
        (REREAD, BORDER + 1, 5, BORDER + 1),
        (REREAD, 90, 80, BORDER + 1),
    ],
)
def test_a_context_is_read_at_the_length_that_generation_reads_it_at(
    rule: LengthRule, length: int, generated_from: int, reading: int
) -> None:
    assert rule.reading(length, generated_from) == reading


def test_no_step_crosses_a_border_where_all_is_read_anew() -> None:
    assert REREAD.reach(1) == REREAD.reach(BORDER) == BORDER
    for rule, length in ((REREAD, BORDER + 1), (BY_TURN, 1), (GROWS, 1), (ANY_LENGTH, 1)):
        assert rule.reach(length) == sys.maxsize


def test_the_rule_follows_from_the_configuration() -> None:
    assert length_rule(tiny_phi3().config) == REREAD
    assert length_rule(longrope_llama().config) == BY_TURN
    named = {"max_position_embeddings": 48}
    dynamic = llama_config(rope_parameters=dict(DYNAMIC), **named)
    assert length_rule(dynamic) == LengthRule(48, grows=True)
    for config in (llama_config(), BloomConfig(), MptConfig(), Gemma3TextConfig()):
        assert length_rule(config) == ANY_LENGTH


def test_the_models_that_are_read_anew_are_those_of_the_library() -> None:
    folder = Path(transformers.__file__).parent / "models"
    found = set()
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        source = folder / kind / f"modeling_{kind}.py"
        if (
            source.is_file()
            and "self.config.original_max_position_embeddings" in source.read_text()
        ):
            found.add(kind)
    assert found == REREAD_BY_LIBRARY


def scaled(
    make: type[PreTrainedConfig], named: int, kind: str, factor: float, **rope: object
) -> PreTrainedConfig:
    parameters = {"rope_type": kind, "rope_theta": 1e6, "factor": factor} | rope
    return make(max_position_embeddings=named, rope_parameters=parameters)


BANDS = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
SMALL_BEFORE = {"original_max_position_embeddings": 8192}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
GEMMA3 = {
    "sliding_attention": PLAIN,
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
}


@pytest.mark.parametrize(
    ("config", "named", "furthest"),
    [
        pytest.param(MptConfig(max_seq_len=96), 96, 96, id="another name"),
        pytest.param(BloomConfig(), 0, 0, id="none named"),
        pytest.param(MistralConfig(max_position_embeddings=64), 64, 64, id="not scaled"),
        pytest.param(
            scaled(Qwen2Config, 32768, "yarn", 4.0, original_max_position_embeddings=32768),
            32768,
            131072,
            id="Qwen 2.5, yarn",
        ),
        pytest.param(
            scaled(LlamaConfig, 163840, "yarn", 40.0, original_max_position_embeddings=4096),
            163840,
            163840,
            id="yarn whose result is named",
        ),
        pytest.param(
            scaled(LlamaConfig, 131072, "llama3", 8.0, **SMALL_BEFORE, **BANDS),
            131072,
            131072,
            id="Llama 3.1",
        ),
        pytest.param(
            Phi3Config(
                max_position_embeddings=131072,
                original_max_position_embeddings=4096,
                rope_parameters=PLAIN
                | {"rope_type": "longrope", "short_factor": [1.0] * 48, "long_factor": [4.0] * 48},
            ),
            131072,
            131072,
            id="Phi-3 of 128k",
        ),
        pytest.param(scaled(LlamaConfig, 4096, "linear", 4.0), 4096, 16384, id="linear"),
        pytest.param(scaled(LlamaConfig, 32768, "dynamic", 2.0), 32768, 65536, id="dynamic"),
        pytest.param(
            Gemma3TextConfig(max_position_embeddings=131072, rope_parameters=GEMMA3),
            131072,
            131072,
            id="Gemma 3, some layers scaled",
        ),
    ],
)
def test_a_scaled_embedding_reaches_as_far_as_its_factor_says(
    config: PreTrainedConfig, named: int, furthest: int
) -> None:
    assert longest_context(config) == named
    assert furthest_context(config) == furthest


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rope", [LONGROPE, DYNAMIC], ids=["longrope", "dynamic"])
@pytest.mark.parametrize("make", [LlamaConfig, CohereConfig, Olmo2Config])
def test_a_token_is_rotated_as_the_library_does_a_context_of_its_length(
    make: type[PreTrainedConfig], rope: dict[str, object], dtype: torch.dtype
) -> None:
    """Whatever stands beside it. The library is asked for one context at a time, by a fresh copy."""
    named = LONGEST if rope is LONGROPE else BORDER
    config = make(**(SMALL | {"max_position_embeddings": named, "rope_parameters": dict(rope)}))
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    library = deepcopy(model.model.rotary_emb)
    (own,) = rotate_by_length(model, LONGEST)
    assert rotate_by_length(model, LONGEST) == (own,)
    lengths = [1, BORDER - 1, BORDER, BORDER + 1, 50, 51, LONGEST]
    like = torch.zeros(1, dtype=dtype)
    positions = torch.tensor([[length - 1, length // 2] for length in lengths])
    own.place(torch.tensor(lengths)[:, None].expand(-1, 2))
    for row, got in enumerate(zip(*own(like, positions), strict=True)):
        wanted = deepcopy(library)(like, positions[row : row + 1])
        for mine, theirs in zip(got, wanted, strict=True):
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs[0]), lengths[row]


def test_within_the_border_the_library_keeps_its_own() -> None:
    model = longrope_llama()
    before = model.model.rotary_emb
    assert rotate_by_length(model, BORDER) == ()
    assert model.model.rotary_emb is before


def test_layers_of_kinds_with_rules_of_their_own_are_refused_beyond_the_border() -> None:
    rope = {"sliding_attention": dict(PLAIN), "full_attention": dict(DYNAMIC)}
    settings = SMALL | {"max_position_embeddings": BORDER, "rope_parameters": rope}
    model = AutoModelForCausalLM.from_config(Olmo3Config(**settings))
    assert rotate_by_length(model, BORDER) == ()
    with pytest.raises(ModelRefused, match=f"at most {BORDER} .--max-context-tokens"):
        rotate_by_length(model, BORDER + 1)


def test_an_embedding_of_a_form_that_is_not_known_is_refused_beyond_the_border() -> None:
    model = longrope_llama()
    module = model.model.rotary_emb
    forward = type(module).forward

    def twice(self: torch.nn.Module, *told: torch.Tensor) -> list[torch.Tensor]:
        return [part * 2 for part in forward(self, *told)]

    with (
        mock.patch.object(type(module), "forward", twice),
        pytest.raises(ModelRefused, match="LlamaRotaryEmbedding has other frequencies"),
    ):
        rotate_by_length(model, LONGEST)


def test_an_engine_that_took_the_largest_position_would_be_found_out_by_its_audit() -> None:
    with mock.patch.object(forward_choice, "rotate_by_length", return_value=()):
        audit = audit_shapes(tiny_runner(longrope_llama()), reproducible=False)
    assert not audit.all_interchangeable
    found = {finding.variation for finding in audit.findings if not finding.identical}
    assert {"row 3 beside the longest", f"steps of every length, across {BORDER} tokens"} <= found


@needs_kernels
@pytest.mark.parametrize(
    ("make", "rope"), [(LlamaConfig, LONGROPE), (LlamaConfig, DYNAMIC), (Phi3Config, LONGROPE)]
)
@pytest.mark.parametrize("known", [True, False])
def test_an_engine_within_the_border_computes_what_the_library_does(
    make: type[PreTrainedConfig], rope: dict[str, object], known: bool
) -> None:
    """Recorded where the form of the embedding is known, and else by the library."""
    named = LONGEST if rope is LONGROPE else BORDER
    config = make(**(SMALL | {"max_position_embeddings": named, "rope_parameters": dict(rope)}))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        wanted = deepcopy(model)(tokens).logits[0]
    limits = tiny_limits(max_context_tokens=BORDER)
    with mock.patch.object(rotary, "_agrees", return_value=known):
        runner = StepRunner(loaded(model), limits, "auto")
    assert bool(runner.kernel_note) is not known
    (got,) = runner.logits([Row(0, 0, tuple(range(8)))], 1)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


@needs_kernels
@pytest.mark.parametrize("rope", [LONGROPE, DYNAMIC], ids=["longrope", "dynamic"])
def test_packed_rows_of_any_lengths_keep_a_tokens_bits(rope: dict[str, object]) -> None:
    factors = {"short_factor": [1 + k / 16 for k in range(16)], "long_factor": [2.0] * 16}
    named = LONGEST if rope is LONGROPE else BORDER
    config = llama_config(
        hidden_size=64,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=named,
        rope_parameters=rope | factors,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    engine = packed_engine(model)
    assert engine.runner.layout.packed
    assert engine.audit.all_interchangeable
    assert any("across" in finding.variation for finding in engine.audit.findings)


def test_a_draft_waits_at_the_border_and_then_reads_all_anew_once() -> None:
    engine = tiny_engine(tiny_phi3(), tiny_limits(max_context_tokens=LONGEST))
    opened = engine.open("a", 1, len(PROMPT), Draw(SamplingParams(temperature=0.0), 0, len(PROMPT)))
    emitted: list[Proposal] = []
    job = DraftJob(
        engine,
        opened.slot,
        opened.opening,
        len(PROMPT),
        lead=40,
        emit=lambda branch, proposal, seconds: emitted.append(proposal),
        on_error=lambda error: pytest.fail(str(error)),
    )

    def run() -> tuple[int, ...]:
        while (work := job.work()) is not None:
            row = (opened.slot, work.start_position, work.tokens)
            if work.prefill:
                engine.prefill(*row)
                job.take(work, None, 1, 0.0)
            else:
                job.take(work, engine.decide([row]).rows[0], 1, 0.0)
        return tuple(token for proposal in emitted for token in proposal.tokens)

    job.commit(0, PROMPT)
    first = run()
    assert len(PROMPT) + len(first) == BORDER + 1
    assert opened.slot.reading == 0
    read = engine.counters.prefilled_tokens
    job.commit(len(PROMPT), first)
    guessed = run()
    assert len(PROMPT) + len(guessed) == BORDER + 1 + 40
    assert opened.slot.reading == BORDER + 1
    assert engine.counters.prefilled_tokens - read == BORDER
    assert guessed == greedy(tiny_phi3(), PROMPT, len(guessed))


@torch.no_grad()
def greedy(
    model: transformers.PreTrainedModel, prompt: tuple[int, ...], count: int
) -> tuple[int, ...]:
    """The most probable tokens, each from a full forward pass over all before it."""
    tokens = list(prompt)
    for _ in range(count):
        logits = model(torch.tensor([tokens]), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tuple(tokens[len(prompt) :])


@pytest.mark.parametrize("leave", ["park", "fork"])
def test_keys_keep_what_they_were_read_at_wherever_they_go(leave: str) -> None:
    """A way back below the border reads all anew; so the keys of the longer context must be known by it."""
    engine = tiny_engine(tiny_phi3(), tiny_limits(max_context_tokens=LONGEST))
    engine.park_bytes = engine.parked.budget_bytes = 1 << 20
    draw = Draw(SamplingParams(temperature=0.0), 0, 0)
    slot = engine.open("a", 1, 0, draw).slot
    assert engine.turn_to(slot, BORDER + 8)
    engine.prefill(slot, 0, PROMPT[:16])
    engine.table.close(slot, slot.opening)
    if leave == "park":
        park_all(engine)
        back = engine.open("a", 1, 16, draw).slot
    else:
        assert engine.fork("a", "b", 12, 1) == 12
        back = engine.open("b", 1, 12, draw).slot
    assert back.tokens
    assert not engine.turn_to(back, BORDER + 8)
    assert engine.turn_to(back, 13)
    assert not back.tokens
    engine.decide([(back, 0, PROMPT[:8])])
    assert engine.runner.logits([Row(back.index, 8, PROMPT[8:9])], 1)[0].isfinite().all()
