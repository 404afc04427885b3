"""What a pass over the text measures, against the same computed another way."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from outrider_server.distilling.agreement import agreement_chances
from outrider_server.quantization.layers import quantized_layers
from outrider_server.quantization.reading import (
    NO_TOKEN,
    Reading,
    agreement,
    observed_outliers,
    read_windows,
)
from torch import nn
from transformers import PreTrainedModel

from tests.models_for_tests import tiny_llama

from .subjects import random_windows


def test_perplexity_is_that_of_each_next_token() -> None:
    model, windows = tiny_llama(), random_windows()
    surprises = []
    with torch.inference_mode():
        for window in windows:
            for place in range(1, len(window)):
                logits = model(input_ids=window[None, :place]).logits[0, -1]
                surprises.append(-logits.log_softmax(-1)[window[place]].item())
    reading = read_windows(model, windows)
    assert reading.positions == len(surprises) == 3 * 39
    assert reading.perplexity == pytest.approx(math.exp(sum(surprises) / len(surprises)), rel=1e-5)


def test_the_greedy_draw_is_the_most_probable_token() -> None:
    model, windows = tiny_llama(), random_windows(count=1)
    with torch.inference_mode():
        best = model(input_ids=windows[0][None, :-1]).logits[0].argmax(-1)
    assert read_windows(model, windows).draws[0.0].tolist() == best.tolist()


def test_a_model_agrees_with_itself_at_every_temperature() -> None:
    reading = read_windows(tiny_llama(), random_windows())
    assert agreement(reading, reading) == {0.0: 1.0, 0.7: 1.0, 1.0: 1.0}


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_the_share_that_agrees_is_near_the_exact_chance(temperature: float) -> None:
    """Over 2,370 positions; 4 standard errors of a share, 4 * sqrt(0.25 / 2370) = 0.041."""
    target, draft = tiny_llama(), tiny_llama()
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter += 0.1 * parameter.std() * torch.randn_like(parameter)
    windows = random_windows(count=30, width=80)
    chances = []
    with torch.inference_mode():
        for window in windows:
            logits = [
                model(input_ids=window[None, :-1]).logits[0] / temperature
                for model in (target, draft)
            ]
            chances.append(agreement_chances(*logits))
    exact = torch.cat(chances).mean().item()
    shares = agreement(read_windows(draft, windows), read_windows(target, windows))
    assert 0.2 < exact < 0.95
    assert abs(shares[temperature] - exact) < 0.041


def test_noise_does_not_repeat_from_window_to_window() -> None:
    model, window = tiny_llama(), random_windows(count=1)[0]
    draws = read_windows(model, [window, window]).draws
    assert draws[0.0][:39].tolist() == draws[0.0][39:].tolist()
    assert draws[1.0][:39].tolist() != draws[1.0][39:].tolist()


class Bigram(nn.Module):
    """A model whose logits depend on one token alone; token 5 is followed by no numbers."""

    device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        table = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
        table[5] = torch.nan
        return SimpleNamespace(logits=table[input_ids])


def test_positions_without_numbers_agree_with_nothing() -> None:
    reading = read_windows(cast(PreTrainedModel, Bigram()), [torch.tensor([1, 5, 2, 3])])
    assert reading.perplexity is None
    assert [token == NO_TOKEN for token in reading.draws[1.0].tolist()] == [False, True, False]
    assert agreement(reading, reading)[0.0] == pytest.approx(2 / 3)


def test_a_perplexity_beyond_all_numbers_is_none() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight *= 1e6
    assert read_windows(model, random_windows(count=1)).perplexity is None


def test_agreement_counts_equal_draws() -> None:
    first, second = (
        Reading(2.0, {0.0: torch.tensor(tokens), 0.7: torch.tensor(tokens)})
        for tokens in ([1, 2, 3, 4], [1, 2, 9, NO_TOKEN])
    )
    assert agreement(first, second) == {0.0: 0.5, 0.7: 0.5}


def test_outlier_columns_are_the_inputs_that_reach_six_anywhere() -> None:
    model = tiny_llama()
    layers = quantized_layers(model)
    name = "model.layers.0.self_attn.q_proj"
    with torch.no_grad():
        model.model.layers[0].input_layernorm.weight.fill_(0.001)
        model.model.layers[0].input_layernorm.weight[[3, 30]] = 1000.0
    with observed_outliers(layers) as found:
        read_windows(model, random_windows())
    assert found[name].nonzero().flatten().tolist() == [3, 30]
    assert set(found) == set(layers)
    assert not any(
        module._forward_pre_hooks for module in model.modules() if isinstance(module, nn.Linear)
    )
