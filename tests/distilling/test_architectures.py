"""Targets of other architectures: their students are models of the same kind, and learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from outrider_server.distilling import learner as learner_module
from outrider_server.distilling.batches import Batch
from outrider_server.distilling.draft_vocabulary import DraftVocabulary
from outrider_server.distilling.learner import Learner
from outrider_server.distilling.objectives import OBJECTIVES, agreement, pair_of
from outrider_server.distilling.student import build_student
from transformers import (
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    OPTConfig,
    PreTrainedModel,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from tests.gguf_files import write_model
from tests.models_for_tests import VOCABULARY_SIZE, packable_llama

from .subjects import run_distill

LAYERS = 3
SIZES = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY_SIZE,
        n_embd=32,
        n_layer=LAYERS,
        n_head=4,
        bos_token_id=1,
        eos_token_id=2,
    ),
    "gemma2": Gemma2Config(**SIZES, final_logit_softcapping=2.0),
    "qwen2": Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=8, max_window_layers=1),
    "cohere": CohereConfig(**SIZES, logit_scale=0.25),
    "opt": OPTConfig(
        **{name: SIZES[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")},
        num_attention_heads=4,
        ffn_dim=48,
        word_embed_proj_dim=32,
    ),
}


@pytest.fixture(params=CONFIGS)
def target(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIGS[request.param]
    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config).eval()


def test_a_student_of_all_layers_and_tokens_is_the_target(target: PreTrainedModel) -> None:
    whole = DraftVocabulary(torch.arange(VOCABULARY_SIZE), VOCABULARY_SIZE, is_whole=True)
    student = build_student(target, range(LAYERS), whole).eval()
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(student(ids).logits, target(ids).logits)


def test_a_student_of_a_layer_and_some_tokens_learns_what_it_is_shown(
    target: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learner_module, "PEAK_RATE", 0.02)  # for weights that are random
    known = DraftVocabulary(torch.arange(0, VOCABULARY_SIZE, 2), VOCABULARY_SIZE, is_whole=False)
    student = build_student(target, (LAYERS - 1,), known)
    learner = Learner(student, known, OBJECTIVES["agreement"], steps=60)
    batch = shown()
    before = learner.judge(batch).chances.mean()
    for step in range(60):
        learner.learn(batch, None, step)
    assert learner.judge(batch).chances.mean() > before + 0.1


def test_a_student_is_judged_by_the_logits_that_its_model_gives(target: PreTrainedModel) -> None:
    whole = DraftVocabulary(torch.arange(VOCABULARY_SIZE), VOCABULARY_SIZE, is_whole=True)
    student = build_student(target, (0, 2), whole)
    batch = shown()
    judged = Learner(student, whole, OBJECTIVES["agreement"], steps=1).judge(batch)
    with torch.no_grad():
        logits = student(batch.inputs).logits[0]
    chances = agreement(pair_of(logits, batch.own_ids, batch.logprobs, batch.temperatures))
    torch.testing.assert_close(judged.chances, chances, atol=1e-3, rtol=0.02)


def shown() -> Batch:
    """One text in which a token that the draft knows nearly always comes next."""
    count = 20
    inputs = torch.arange(count)[None]
    own_ids = torch.full((count, 2), -1)
    own_ids[:, 0] = torch.arange(count) % 5 + 3
    return Batch(
        inputs=inputs,
        decides=torch.ones_like(inputs, dtype=torch.bool),
        own_ids=own_ids,
        logprobs=torch.tensor([0.9, 0.1]).log().expand(count, 2),
        temperatures=torch.ones(count),
        is_greedy=torch.zeros(count, dtype=torch.bool),
        positions=torch.arange(count),
    )


@pytest.mark.processes
def test_a_draft_is_made_for_a_gguf_file(tmp_path: Path) -> None:
    file = write_model(packable_llama(), tmp_path / "target.gguf")
    outcome = run_distill(
        file,
        tmp_path / "draft",
        *("--tokens=300", "--vocabulary=40", "--reply-tokens=16", "--slots=4", "--threads=1"),
        cache=tmp_path / "cache",
    )
    assert outcome.returncode == 0, outcome.stderr
    assert (tmp_path / "draft" / "tokenizer.json").is_file()
