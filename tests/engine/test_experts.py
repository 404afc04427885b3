"""Mixtures of experts: the library's numbers, and a token's bits whatever its neighbours choose."""

from __future__ import annotations

import copy

import pytest
import torch
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.model.experts import NAME, run_experts_alike
from torch import nn
from transformers import GptOssConfig, GptOssForCausalLM, MixtralConfig, MixtralForCausalLM

HIDDEN, EXPERTS, CHOSEN = 64, 6, 2


def mixtral(dtype: torch.dtype) -> MixtralForCausalLM:
    torch.manual_seed(3)
    config = MixtralConfig(
        vocab_size=32,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=EXPERTS,
        initializer_range=0.2,
    )
    return MixtralForCausalLM(config).to(dtype).eval()


def experts_of(model: MixtralForCausalLM) -> nn.Module:
    return model.model.layers[0].mlp.experts


def routed(count: int, seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Tokens [N, H], the experts that they choose [N, 2] and with which weights [N, 2]."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn((count, HIDDEN), generator=generator).to(dtype)
    chosen = torch.rand((count, EXPERTS), generator=generator).topk(CHOSEN).indices
    weights = torch.rand((count, CHOSEN), generator=generator).softmax(-1).to(dtype)
    return tokens, chosen, weights


@torch.no_grad()
def test_experts_give_what_the_librarys_plain_loop_gives() -> None:
    model = mixtral(torch.float32)
    plain = copy.deepcopy(model)
    plain.set_experts_implementation("eager")
    run_experts_alike(model)
    assert model.config._experts_implementation == NAME
    inputs = routed(16, 0, torch.float32)
    torch.testing.assert_close(experts_of(model)(*inputs), experts_of(plain)(*inputs))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tokens_bits_do_not_depend_on_what_its_neighbours_choose(dtype: torch.dtype) -> None:
    """Token 5 of 8 among 40 kinds of neighbours, of which some all choose what it chooses."""
    model = mixtral(dtype)
    run_experts_alike(model)
    token, chosen, weights = routed(8, 1, dtype)
    wanted = experts_of(model)(token, chosen, weights)[5]
    for seed in range(2, 42):
        others, their_choice, their_weights = routed(8, seed, dtype)
        if seed % 4 == 0:
            their_choice = chosen[5].expand(8, -1).clone()
        others[5], their_choice[5], their_weights[5] = token[5], chosen[5], weights[5]
        assert torch.equal(experts_of(model)(others, their_choice, their_weights)[5], wanted)


def test_experts_of_another_kind_are_refused() -> None:
    config = GptOssConfig(
        vocab_size=32,
        hidden_size=HIDDEN,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=4,
    )
    with pytest.raises(ModelRefused, match="GptOssExperts"):
        run_experts_alike(GptOssForCausalLM(config))
