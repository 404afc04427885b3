"""How a forward pass is computed: recorded, with the library's own numbers, or by the library's model.

Logits are bounded by what the model's dtype leaves of float32 in the library's own layers: a recorded pass
may be no further from float32 than twice the library is; in float32 it may differ by the order of sums.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

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
from outrider_server.core.errors import StartupError
from outrider_server.core.progress import silent
from outrider_server.engine import forward_choice
from outrider_server.engine.forward_choice import why_not_recorded
from outrider_server.engine.layout import Row
from outrider_server.engine.model.loading import facts_of
from outrider_server.engine.program import weights
from outrider_server.engine.program.weights import PackedLayer
from outrider_server.engine.step import StepRunner
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GPTQConfig,
    LlamaForCausalLM,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

TOKENS = tuple((17 * index + 3) % VOCABULARY_SIZE for index in range(45))
SHAPE: dict[str, Any] = {
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
GEMMA = {"num_key_value_heads": 1, "head_dim": 32, "layer_types": ["full_attention"] * 2}
CONFIGS = {
    "ALiBi": BloomConfig(**SHAPE),
    "capped scores": Gemma2Config(**SHAPE, **GEMMA),
    "a window": MistralConfig(**SHAPE, num_key_value_heads=1, sliding_window=32),
    "Conv1D": GPT2Config(**SHAPE),
    "experts": MixtralConfig(**SHAPE, num_key_value_heads=1, num_local_experts=4),
    "linear layers of its own": FalconConfig(**SHAPE),
    "biases": Qwen2Config(**SHAPE, num_key_value_heads=1),
    "a fused projection": GPTNeoXConfig(**SHAPE, rotary_pct=0.25, use_parallel_residual=True),
    "tied embeddings": llama_config(tie_word_embeddings=True),
    "small heads": llama_config(),
    "heads of an odd size": llama_config(head_dim=6),
    "wide heads": llama_config(head_dim=96),
}


def built(config: PreTrainedConfig, dtype: torch.dtype = torch.bfloat16) -> PreTrainedModel:
    """Fresh biases are zero, and a bias left out would not show."""
    torch.manual_seed(4)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="eager")
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.data.normal_(0, 0.5)
    return model.to(dtype).eval()


@torch.no_grad()
def library_logits(model: PreTrainedModel) -> torch.Tensor:
    return model(torch.tensor([TOKENS])).logits[0].float()


def recorded_runner(model: PreTrainedModel) -> StepRunner:
    """Of a model that may compute its attention itself, until it is adapted."""
    given = replace(loaded(packable_llama()), model=model, **facts_of(model))
    return StepRunner(given, tiny_limits(), "auto")


def through_steps(model: PreTrainedModel) -> torch.Tensor:
    """The tokens by prefill, then by a full step, then one at a time."""
    runner = recorded_runner(model)
    assert runner.layout.packed, runner.kernel_note
    runner.prefill(Row(2, 0, TOKENS[:16]))
    runner.prefill(Row(2, 16, TOKENS[16:29]))
    pieces = [runner.logits([Row(2, 29, TOKENS[29:37])], 1)[0].clone()]
    for position in range(37, 45):
        one = (TOKENS[position],)
        pieces.append(runner.logits([Row(2, position, one)], 2)[0].clone())
    return torch.cat(pieces)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_recorded_models_logits_are_the_librarys(
    config: PreTrainedConfig, dtype: torch.dtype
) -> None:
    model = built(config, dtype)
    exact = library_logits(copy.deepcopy(model).float())[29:]
    library = library_logits(model)[29:]
    got = through_steps(model)
    bound = 1e-5 * exact.norm() if dtype == torch.float32 else 2 * (library - exact).norm()
    assert (got - exact).norm() <= bound
    assert bound < 0.1 * exact.norm(), "the bound says something"


@needs_kernels
def test_layers_of_two_dtypes_are_recorded() -> None:
    model = packable_llama()
    model.model.norm.float()
    model.lm_head.float()
    model.model.norm.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
    assert packed_runner(model).layout.packed


@needs_kernels
def test_a_layer_that_is_a_linear_one_and_something_more_is_recorded_with_it() -> None:
    class Doubled(nn.Linear):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(tokens)

    model, plain = packable_llama(), packed_runner()
    model.lm_head.__class__ = Doubled
    row = Row(0, 0, TOKENS[:8])
    doubled = packed_runner(model).logits([row], 1)[0]
    assert torch.equal(doubled, 2 * plain.logits([row], 1)[0])


@needs_kernels
def test_the_model_has_its_weights_no_longer() -> None:
    model = packable_llama()
    packed_runner(model)
    assert sum(weight.nbytes for weight in model.parameters()) == 0


@needs_kernels
def test_a_recorded_model_is_recorded_for_good() -> None:
    model, row = packable_llama(), Row(0, 0, TOKENS[:8])
    wanted = packed_runner(model).logits([row], 1)[0].clone()
    assert torch.equal(packed_runner(model).logits([row], 1)[0], wanted)


@needs_kernels
@pytest.mark.parametrize(("name", "tensors"), [("experts", 2), ("small heads", 1)])
def test_no_more_than_one_layer_is_held_twice(
    name: str, tensors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experts have their weights in two tensors, which go with the last of them."""
    model, packed, pack = built(CONFIGS[name]), 0, weights.packed_layer
    sizes = sorted(weight.nbytes for weight in model.parameters())
    all_packed = sum(sizes) - model.get_input_embeddings().weight.nbytes

    def watched(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLayer:
        nonlocal packed
        packed += weight.nbytes
        held = sum(each.nbytes for each in model.parameters())
        assert held + packed <= sum(sizes) + sum(set(sizes[-2 * tensors :]))
        return pack(weight, bias)

    monkeypatch.setattr(weights, "packed_layer", watched)
    recorded_runner(model)
    assert packed == pytest.approx(all_packed, rel=0.01)


@needs_kernels
def test_a_fault_of_packing_is_no_reason_to_run_a_model_without_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> PackedLayer:
        raise MemoryError

    monkeypatch.setattr(weights, "packed_layer", fail)
    with pytest.raises(MemoryError):
        packed_runner()


def giant_heads() -> PreTrainedModel:
    return packable_llama(head_dim=288)


def in_float64() -> PreTrainedModel:
    return packable_llama().double()


def elsewhere() -> PreTrainedModel:
    with torch.device("meta"):
        return LlamaForCausalLM(llama_config()).bfloat16()


def quantized_by_another() -> PreTrainedModel:
    """As if its linear layers were gptqmodel's: they hold no parameters, and no test has them."""
    model = packable_llama()
    model.config.quantization_config = GPTQConfig(bits=4)
    return model


NOT_TAKEN = {
    quantized_by_another: "quantized by gptq",
    giant_heads: "heads of 288",
    in_float64: "weights in float64",
    elsewhere: "are for CPUs",
}


@pytest.mark.parametrize(("build", "reason"), NOT_TAKEN.items())
def test_what_keeps_a_model_from_the_kernels_is_said(
    build: Callable[[], PreTrainedModel], reason: str
) -> None:
    assert re.search(reason, why_not_recorded(build(), silent))


def served_by_the_library(model: PreTrainedModel) -> StepRunner:
    """Asserts that a model keeps its weights and is served by aligned rows."""
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    runner = packed_runner(model)
    assert not runner.layout.packed
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name])
    return runner


@pytest.mark.parametrize("build", [giant_heads, quantized_by_another])
def test_a_model_that_the_kernels_do_not_take_stays_untouched(
    build: Callable[[], PreTrainedModel],
) -> None:
    model = build()
    note = why_not_recorded(model, silent)
    assert served_by_the_library(model).kernel_note == note


def test_without_kernels_every_model_stays_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = "no C++ compiler was found"
    monkeypatch.setattr(forward_choice, "built_kernels_missing", lambda _: missing)
    assert served_by_the_library(packable_llama()).kernel_note == missing


def looks_at_its_tokens(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    """What a recording has no content for."""
    if inputs[0].sum() > 1e9:
        raise AssertionError


def mixes_its_tokens(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    return (inputs[0].cumsum(1),)


@needs_kernels
@pytest.mark.parametrize(
    ("hook", "reason"),
    [
        (looks_at_its_tokens, r"the model cannot be recorded: recording it raises \w+"),
        (mixes_its_tokens, r"the model cannot be recorded: it computes aten\.cumsum\.default"),
    ],
)
def test_a_model_that_cannot_be_recorded_stays_untouched(
    hook: Callable[..., object], reason: str
) -> None:
    model = packable_llama()
    model.lm_head.register_forward_pre_hook(hook)
    assert re.fullmatch(reason, served_by_the_library(model).kernel_note)
    with pytest.raises(StartupError, match=f"attention packed cannot run: {reason}; use auto"):
        StepRunner(loaded(model), tiny_limits(), "auto", "packed")


def test_compile_off_is_the_plain_version() -> None:
    """The library's layers and aligned rows stay beside the recording, to compare with."""
    model = packable_llama()
    runner = StepRunner(loaded(model), tiny_limits(), "off")
    assert not runner.layout.packed
    assert runner.kernel_note == "compilation is switched off"
    assert model.lm_head.weight.numel()


@needs_kernels
def test_logits_that_bfloat16_would_round_to_ties_are_told_apart() -> None:
    """Each token has a twin whose weights differ in one input's, so their logits differ by its share."""
    model = packable_llama(vocabulary_size=200)
    head = model.lm_head.weight.data.mul_(10)
    head[100:] = head[:100]
    head[100:, 0] *= 1.01
    between = (head[100:, 0] - head[:100, 0]).double()
    (logits,) = packed_runner(model).logits([Row(0, 0, TOKENS[:8])], 1)
    apart = (logits[:, 100:] - logits[:, :100]).double()
    hidden = apart @ between / between.square().sum()
    torch.testing.assert_close(apart, hidden[:, None] * between, rtol=1e-3, atol=1e-4)
    rounded = logits.bfloat16()
    assert (rounded[:, 100:] == rounded[:, :100]).float().mean() > 0.1, "the twins would tie"
    assert (logits[:, 100:] == logits[:, :100]).float().mean() < 0.05
