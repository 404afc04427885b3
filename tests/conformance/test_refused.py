"""What cannot be served is refused at start in one sentence that says why."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.model.probing import probe_step
from transformers import LlamaConfig, LlamaForCausalLM

from .architectures import REFUSED, SERVED, Refused
from .refusing import refusal


@pytest.mark.parametrize("refused", REFUSED, ids=lambda each: each.name)
def test_a_configuration_is_refused_before_any_weight_is_read(
    refused: Refused, tmp_path: Path
) -> None:
    sentence = refusal(refused, tmp_path)
    assert sentence.startswith(f"model folder {tmp_path} cannot be ")
    assert refused.reason in sentence
    assert "\n" not in sentence


def test_a_first_step_without_weights_refuses_nothing_that_is_served() -> None:
    for architecture in SERVED:
        probe_step(architecture.make())


def test_a_first_step_without_weights_leaves_the_configuration_as_it_was() -> None:
    config = LlamaConfig(num_hidden_layers=2, dtype="bfloat16")
    before, default = config.to_dict(), torch.get_default_dtype()
    probe_step(config)
    assert config.to_dict() == before
    assert config._attn_implementation != "outrider"
    assert torch.get_default_dtype() is default


def test_a_first_step_without_weights_takes_no_memory() -> None:
    """The embedding alone is larger than an address space."""
    probe_step(LlamaConfig(vocab_size=1 << 45, hidden_size=128, num_hidden_layers=1))


def test_what_looks_at_values_is_left_to_the_first_real_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look(self: object, *_: object, **__: object) -> None:
        torch.zeros(1, device="meta").item()

    config = LlamaConfig(num_hidden_layers=1)
    monkeypatch.setattr(LlamaForCausalLM, "forward", look)
    probe_step(config)


@pytest.mark.parametrize(
    "error", [KeyError("metadata"), RuntimeError("a meta analysis"), ValueError("meta tensor")]
)
def test_what_fails_for_another_reason_is_refused_whatever_its_words(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: object, *_: object, **__: object) -> None:
        raise error

    config = LlamaConfig(num_hidden_layers=1)
    monkeypatch.setattr(LlamaForCausalLM, "forward", fail)
    with pytest.raises(ModelRefused, match=type(error).__name__):
        probe_step(config)
