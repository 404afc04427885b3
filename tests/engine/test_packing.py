"""A packed model: the library's own numbers from the engine's own kernels, or the model as it was.

Logits are bounded by what bfloat16 leaves of float32 in the library's own layers: the packed model may be
no more than twice as far from float32 as the library in bfloat16 is, for it rounds at the same places.
"""

from __future__ import annotations

import copy
import re
import weakref
from collections.abc import Callable

import pytest
import torch
from models_for_tests import (
    VOCABULARY_SIZE,
    llama_config,
    loaded,
    needs_kernels,
    packable_llama,
    packed_runner,
    tiny_limits,
)
from outrider_server.engine.layout import Row
from outrider_server.engine.model import packing
from outrider_server.engine.model.architectures import adapt_model
from outrider_server.engine.model.packed_layers import PackedLinear
from outrider_server.engine.model.packing import is_packed, pack_model, why_not_packed
from outrider_server.engine.step import StepRunner
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GPTQConfig,
    LlamaForCausalLM,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

TOKENS = tuple((17 * index + 3) % VOCABULARY_SIZE for index in range(45))
SHAPE = {
    "vocab_size": VOCABULARY_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}


def with_random_biases(model: PreTrainedModel) -> PreTrainedModel:
    """Fresh biases are zero, and a bias left out would not show."""
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_(0, 0.5)
    return model.to(torch.bfloat16).eval()


def qwen() -> PreTrainedModel:
    torch.manual_seed(1)
    return with_random_biases(Qwen2ForCausalLM(Qwen2Config(**SHAPE, num_key_value_heads=1)))


def neox() -> PreTrainedModel:
    """A fused projection, rotary embeddings of a quarter of the head, and a bias everywhere."""
    torch.manual_seed(2)
    config = GPTNeoXConfig(**SHAPE, rotary_pct=0.25, use_parallel_residual=True)
    return with_random_biases(GPTNeoXForCausalLM(config))


def tied() -> PreTrainedModel:
    return packable_llama(tie_word_embeddings=True)


def wide_heads() -> PreTrainedModel:
    return packable_llama(hidden_size=64, head_dim=96, num_attention_heads=4, num_key_value_heads=2)


@torch.no_grad()
def library_logits(model: PreTrainedModel) -> torch.Tensor:
    return model(torch.tensor([TOKENS])).logits[0].float()


def through_steps(model: PreTrainedModel) -> torch.Tensor:
    """The tokens by prefill, then by a full step, then one at a time."""
    runner = packed_runner(model)
    assert runner.layout.packed
    runner.prefill(Row(2, 0, TOKENS[:16]))
    runner.prefill(Row(2, 16, TOKENS[16:29]))
    pieces = [runner.logits([Row(2, 29, TOKENS[29:37])], 1)[0].clone()]
    for position in range(37, 45):
        one = (TOKENS[position],)
        pieces.append(runner.logits([Row(2, position, one)], 2)[0].clone())
    return torch.cat(pieces)


@needs_kernels
@pytest.mark.parametrize("build", [packable_llama, tied, qwen, neox, wide_heads])
def test_a_packed_models_logits_are_the_librarys(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    exact = library_logits(copy.deepcopy(model).float())[29:]
    library = library_logits(model)[29:]
    got = through_steps(model)
    assert (got - exact).norm() <= 2 * (library - exact).norm()
    assert (library - exact).norm() < 0.05 * exact.norm(), "the bound says something"


@needs_kernels
def test_every_linear_layer_is_packed_once_and_no_other() -> None:
    model = packable_llama()
    before = sum(type(module) is nn.Linear for module in model.modules())
    assert not is_packed(model)
    assert pack_model(model)
    assert is_packed(model)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(PackedLinear) == before
    assert nn.Linear not in kinds


@needs_kernels
def test_no_more_than_one_layer_is_held_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    model = packable_llama()
    plain = [weakref.ref(module) for module in model.modules() if type(module) is nn.Linear]
    left: list[int] = []

    def watched(linear: nn.Linear, dtype: torch.dtype) -> PackedLinear:
        left.append(sum(layer() is not None for layer in plain))
        return PackedLinear(linear, dtype)

    monkeypatch.setattr(packing, "PackedLinear", watched)
    assert pack_model(model)
    assert left == list(range(len(plain), 0, -1))


@needs_kernels
def test_tied_embeddings_are_still_looked_up() -> None:
    model = tied()
    embedding = model.model.embed_tokens.weight.detach().clone()
    assert pack_model(model)
    assert torch.equal(model.model.embed_tokens.weight, embedding)
    packed = model.lm_head.packed.permute(0, 2, 1, 3).reshape(-1, 64)
    assert torch.equal(packed[:VOCABULARY_SIZE], embedding)


def subclassed() -> PreTrainedModel:
    """A layer that is a linear one and something more."""
    model = packable_llama()

    class Doubled(nn.Linear):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(tokens)

    model.lm_head.__class__ = Doubled
    return model


def small_heads() -> PreTrainedModel:
    return packable_llama(num_attention_heads=4, num_key_value_heads=2)


def giant_heads() -> PreTrainedModel:
    return packable_llama(head_dim=288)


def in_float32() -> PreTrainedModel:
    return packable_llama().float()


def in_two_types() -> PreTrainedModel:
    model = packable_llama()
    model.model.norm.float()
    return model


def elsewhere() -> PreTrainedModel:
    with torch.device("meta"):
        return LlamaForCausalLM(llama_config(hidden_size=64, num_attention_heads=2)).bfloat16()


def refuses(model: PreTrainedModel) -> None:
    """Asserts that a model is left as it is, and served by aligned rows."""
    loaded(model)
    attention = model.config._attn_implementation
    assert not pack_model(model)
    assert not is_packed(model)
    assert model.config._attn_implementation == attention
    assert not any(isinstance(module, PackedLinear) for module in model.modules())


def adapted(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    adapt_model(model)
    return model


def with_biases_by_distance() -> PreTrainedModel:
    return adapted(BloomConfig(**SHAPE))


def with_capped_scores() -> PreTrainedModel:
    settings = {"num_key_value_heads": 1, "head_dim": 32, "layer_types": ["full_attention"] * 2}
    return adapted(Gemma2Config(**SHAPE, **settings))


def with_a_window() -> PreTrainedModel:
    return adapted(MistralConfig(**SHAPE, num_key_value_heads=1, sliding_window=32))


def with_convolutions() -> PreTrainedModel:
    return adapted(GPT2Config(**SHAPE))


def with_experts() -> PreTrainedModel:
    return adapted(MixtralConfig(**SHAPE, num_key_value_heads=1, num_local_experts=4))


def with_linear_layers_of_its_own() -> PreTrainedModel:
    return adapted(FalconConfig(**SHAPE))


def quantized_by_another() -> PreTrainedModel:
    """As if its linear layers were gptqmodel's: they hold no parameters, and no test has them."""
    model = packable_llama()
    model.config.quantization_config = GPTQConfig(bits=4)
    return model


UNPACKABLE = {
    quantized_by_another: "quantized by gptq",
    small_heads: "heads of 16",
    giant_heads: "heads of 288",
    in_float32: "bfloat16 weights only",
    in_two_types: "bfloat16 weights only",
    elsewhere: "are for CPUs",
    with_biases_by_distance: "ALiBi",
    with_capped_scores: "cap attention scores",
    with_a_window: r"sliding window \(32\)",
    with_convolutions: "not Conv1D",
    with_experts: "not MixtralTopKRouter|not MixtralExperts",
    with_linear_layers_of_its_own: "not FalconLinear",
    subclassed: "not Doubled",
}


@pytest.mark.parametrize(("build", "reason"), UNPACKABLE.items())
def test_what_keeps_a_model_from_the_kernels_is_said(
    build: Callable[[], PreTrainedModel], reason: str
) -> None:
    assert re.search(reason, why_not_packed(build()))


@needs_kernels
def test_a_window_as_long_as_the_context_keeps_no_model_from_the_kernels() -> None:
    config = MistralConfig(**SHAPE, num_key_value_heads=1, sliding_window=256)
    assert why_not_packed(adapted(config)) == ""


@pytest.mark.parametrize("build", UNPACKABLE)
def test_a_model_that_the_kernels_cannot_serve_stays_untouched(
    build: Callable[[], PreTrainedModel],
) -> None:
    refuses(build())


def test_without_kernels_every_model_stays_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "kernels_missing", lambda: "no C++ compiler was found")
    refuses(packable_llama())
    assert not packed_runner().layout.packed


def test_compile_off_is_the_plain_version() -> None:
    """The library's layers and aligned rows stay beside the kernels, to compare with."""
    model = packable_llama()
    runner = StepRunner(loaded(model), tiny_limits(), "off")
    assert not runner.layout.packed
    assert not is_packed(model)


@needs_kernels
def test_logits_that_bfloat16_would_round_to_ties_are_told_apart() -> None:
    """The head's sums are not rounded. Each token has a twin whose weights differ in one last bit."""
    model = packable_llama(vocabulary_size=200)
    weights = model.lm_head.weight.data.mul_(10)
    weights[100:] = weights[:100]
    weights[100:, 0] *= 1.01
    weight = weights.double()
    runner = packed_runner(model)
    hidden: list[torch.Tensor] = []
    model.lm_head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0][0]))
    (logits,) = runner.logits([Row(0, 0, TOKENS[:8])], 1)
    exact = hidden[0].double() @ weight.T
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(logits.argmax(-1), exact.argmax(-1))
    assert not torch.equal(logits.bfloat16().argmax(-1), exact.argmax(-1))
