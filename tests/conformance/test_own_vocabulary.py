"""With a vocabulary of their own architectures guess what the library's model does over the mapped logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models_for_tests import needs_kernels
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.drawing.noise import gumbel_noise
from outrider_server.engine.layout import Row
from own_vocabularies import save_cut

from .architectures import SERVED, VOCABULARY
from .checks import PROMPT_TOKENS, library_logits
from .subject import Setting, library_model, make_engine, sample_tokens, save_model

EAGER, RECORDED = Setting("float32", "off"), Setting("float32", "on")
BY_NAME = {architecture.name: architecture for architecture in SERVED}
UNTIED = ("Llama", "Gemma 2", "GPT-NeoX", "Phi", "Qwen2-MoE")
TIED = ("Llama, multi-head", "Qwen2", "OPT", "GPT-2", "Bloom")
KNOWN = [token for token in range(VOCABULARY) if token % 5 < 2]
SEED, TEMPERATURE = 23, 0.8
NEAR_TIE = 1e-3
"""Scores closer than this may change places by the last bits of logits."""


def mapped_scores(own_logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """What each of the target's ids has in the draw after each position: [T, V] float64."""
    scores = torch.full((len(own_logits), VOCABULARY), -torch.inf, dtype=torch.float64)
    scores[:, KNOWN] = own_logits[:, :-1].to(torch.float64)
    if not temperature:
        return scores
    positions = torch.arange(1, len(own_logits) + 1)[None]
    return scores / temperature + gumbel_noise(torch.tensor([SEED]), positions, VOCABULARY)[0]


def own_ids(tokens: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(KNOWN.index(token) if token in KNOWN else len(KNOWN) for token in tokens)


@pytest.mark.parametrize(
    "setting", [EAGER, pytest.param(RECORDED, marks=needs_kernels)], ids=lambda each: each.name
)
@pytest.mark.parametrize("name", [*UNTIED, *TIED])
def test_guesses_are_those_of_the_librarys_model_over_mapped_logits(
    name: str, setting: Setting, tmp_path: Path
) -> None:
    architecture = BY_NAME[name]
    tied = bool(getattr(architecture.make(), "tie_word_embeddings", False))
    assert tied is (name in TIED)
    folder = save_cut(save_model(architecture, tmp_path / "whole"), tmp_path / "cut", KNOWN)
    engine = make_engine(folder, setting)
    assert engine.runner.layout.packed is (setting is RECORDED)
    tokens = sample_tokens(3, PROMPT_TOKENS)
    assert set(tokens) - set(KNOWN)
    library = library_model(architecture, folder, setting.dtype)
    own_logits = library_logits(library, own_ids(tokens))
    for temperature in (0.0, TEMPERATURE):
        draw = Draw(SamplingParams(temperature=temperature), SEED, generated_from=0)
        engine.runner.draws.write(1, draw)
        rows = [Row(1, start, tokens[start : start + 8]) for start in range(0, len(tokens), 8)]
        guesses = [guess for row in rows for guess in engine.runner.decide([row], 1)[0].tokens]
        scores = mapped_scores(own_logits, temperature)
        lost = scores.max(dim=-1).values - scores.gather(-1, torch.tensor(guesses)[:, None])[:, 0]
        assert set(guesses) <= set(KNOWN)
        assert float(lost.max()) < NEAR_TIE
        assert sum(lost == 0) >= len(tokens) - 1
