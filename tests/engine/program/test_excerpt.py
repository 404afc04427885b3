"""The excerpt of a forward pass: short where layers are alike, and with every kind of layer."""

from __future__ import annotations

import pytest
import torch
from conformance.architectures import SERVED, VOCABULARY
from models_for_tests import needs_kernels, packable_llama
from outrider_server.core.progress import silent
from outrider_server.engine.model.architectures import adapt_model
from outrider_server.engine.program.computations import Attended, Multiplied
from outrider_server.engine.program.excerpt import excerpt_of
from outrider_server.engine.program.recorded import recorded_model
from outrider_server.engine.program.weights import Recorded
from transformers import PreTrainedModel

from .models import Piece, Steps, engine_model, inputs_of, library_model, text_of

pytestmark = needs_kernels
NAMES = ["Llama", "Gemma 2", "Gemma 3", "OLMo 3", "Qwen2-MoE", "Bloom", "GPT-2", "Phi"]


def recorded(model: PreTrainedModel) -> Recorded:
    adapt_model(model)
    return recorded_model(model, (), silent)


@pytest.mark.parametrize("layers", [2, 6])
def test_of_layers_that_are_alike_it_has_the_first(layers: int) -> None:
    """With what goes before the second's keys: embedding, attention, four products of it, three behind it."""
    of = recorded(packable_llama(num_hidden_layers=layers))
    begun = excerpt_of(of).lowered.computations
    assert sum(isinstance(one, Attended) for one in begun) == 1
    assert sum(isinstance(one, Multiplied) for one in begun) == 7


@pytest.mark.parametrize("name", NAMES)
def test_it_has_every_kind_of_layer(name: str) -> None:
    architecture = next(one for one in SERVED if one.name == name)
    with torch.no_grad():
        of = recorded_model(
            engine_model(architecture, library_model(architecture, torch.bfloat16)), (), silent
        )
    lowered, begun = of.lowered, excerpt_of(of).lowered.computations
    rules = {
        (each.window, each.softcap)
        for each in (
            lowered.attentions[one.attention] for one in begun if isinstance(one, Attended)
        )
    }
    assert rules == {(each.window, each.softcap) for each in lowered.attentions}
    sizes = {
        (each.outputs, each.inputs)
        for each in (of.layers[one.layer] for one in begun if isinstance(one, Multiplied))
    }
    assert sizes >= {(each.outputs, each.inputs) for each in of.layers[:-1]}


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_what_the_model_does(name: str) -> None:
    """Its keys and values are those of the whole, whose buffers share places."""
    architecture = next(one for one in SERVED if one.name == name)
    with torch.no_grad():
        steps = Steps(engine_model(architecture, library_model(architecture, torch.bfloat16)))
    text = text_of(20, VOCABULARY)
    steps.read(text, Piece(0, 0, 20))
    steps.program.excerpt().compute(inputs_of(text, [Piece(1, 0, 20)]))
    layers = zip(steps.cache.slot_layers(0), steps.cache.slot_layers(1), strict=True)
    alike = [torch.equal(keys, others) for (keys, _), (others, _) in layers]
    assert alike[0]
    assert alike == sorted(alike, reverse=True)


def test_a_layer_of_another_size_is_a_kind_of_its_own() -> None:
    model = packable_llama(num_hidden_layers=6)
    other = packable_llama(intermediate_size=96).model.layers[0].mlp
    model.model.layers[4].mlp = other
    of = recorded(model)
    begun = excerpt_of(of).lowered.computations
    assert sum(isinstance(one, Attended) for one in begun) == 5
