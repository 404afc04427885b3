"""What recording does to a model: its weights are packed and let go, or it is left as it was."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from models_for_tests import needs_kernels, tiny_llama
from numpy import ndarray
from outrider_server.core.progress import Report, Stage, silent
from outrider_server.engine.program.computations import LookedUp
from outrider_server.engine.program.recorded import recorded_model
from outrider_server.engine.program.views import NotRecorded
from transformers import LlamaForCausalLM

from .models import Piece, Steps, error, text_of

pytestmark = needs_kernels
TEXT = text_of(12, 61)


def watched(model: LlamaForCausalLM) -> dict[str, weakref.ref[ndarray]]:
    """The memory of the model's matrices, from now on each of an array of its own, by their names."""
    memory = {}
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            array = weight.detach().numpy().copy()
            weight.data = torch.from_numpy(array)
            memory[name] = weakref.ref(array)
    if model.config.tie_word_embeddings:
        model.tie_weights()
    return memory


def held(memory: dict[str, weakref.ref[ndarray]]) -> set[str]:
    gc.collect()
    return {name for name, array in memory.items() if array() is not None}


def test_the_memory_of_packed_weights_is_gone() -> None:
    """The embedding is still looked up; all else has been packed."""
    model = tiny_llama()
    memory = watched(model)
    assert held(memory) == set(memory)
    recorded_model(model, (), silent)
    assert held(memory) == {"model.embed_tokens.weight"}
    assert sum(weight.numel() for weight in model.parameters()) == 0


def test_tied_embeddings_are_looked_up_in_the_packed_weight() -> None:
    model = tiny_llama(tie_word_embeddings=True)
    memory = watched(model)
    with torch.no_grad():
        wanted = model(TEXT[None]).logits[0]
    recorded = recorded_model(model, (), silent)
    assert held(memory) == set()
    (looked_up,) = (one for one in recorded.lowered.computations if isinstance(one, LookedUp))
    assert looked_up.table == len(recorded.layers) - 1, "the head's"
    assert error(Steps(model).decide(TEXT, Piece(0, 0, 12)), wanted) < 1e-5


def test_a_layer_is_let_go_before_the_next_one_is_packed() -> None:
    model = tiny_llama()
    memory = watched(model)
    most = len(memory)
    left = []

    def tell(report: Report) -> None:
        if report.stage is Stage.PACKING:
            left.append(len(held(memory)))

    recorded_model(model, (), tell)
    assert left == [most - index for index in range(len(left))]
    assert len(left) == most - 1, "all but the embedding"


def test_a_second_engine_runs_over_the_same_packed_weights() -> None:
    model = tiny_llama()
    one, other = Steps(model), Steps(model)
    assert recorded_model(model, (), silent) is recorded_model(model, (), silent)
    wanted = one.decide(TEXT, Piece(0, 0, 12))
    del one
    gc.collect()
    assert torch.equal(other.decide(TEXT, Piece(1, 0, 12)), wanted)


def test_packed_weights_go_with_their_model() -> None:
    model = tiny_llama()
    packed = weakref.ref(recorded_model(model, (), silent).layers[0].packed)
    assert packed() is not None
    del model
    gc.collect()
    assert packed() is None


def looks_at_content(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.sum() > 0 else -logits


def sorts(logits: torch.Tensor) -> torch.Tensor:
    return logits.sort(dim=-1).values


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (looks_at_content, "recording it raises"),
        (sorts, r"it computes aten\.sort\.default"),
    ],
)
def test_a_model_that_cannot_be_recorded_is_left_as_it_was(
    spoil: Callable[[torch.Tensor], torch.Tensor], reason: str
) -> None:
    model = tiny_llama()
    hook = model.lm_head.register_forward_hook(lambda module, inputs, logits: spoil(logits))
    with torch.no_grad():
        wanted = model(TEXT[None]).logits
    attention = model.config._attn_implementation
    with pytest.raises(NotRecorded, match=reason):
        recorded_model(model, (), silent)
    assert model.config._attn_implementation == attention
    with torch.no_grad():
        assert torch.equal(model(TEXT[None]).logits, wanted)
    hook.remove()
    recorded_model(model, (), silent)
