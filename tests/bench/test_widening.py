"""A widened model says what its source says, and costs what it claims."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models_for_tests import llama_config
from outrider_bench.prompts import Prompts
from outrider_bench.shape import Shape
from outrider_bench.widening import lengthened, shape_for, widened
from outrider_server.core.errors import StartupError
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedModel

MILLIONS = 41
"""The least that is both wider and deeper than the bundled target."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def wide(cache: Path) -> Path:
    return widened(TARGET_FOLDER, MILLIONS, cache)


def model(folder: Path) -> PreTrainedModel:
    """The folder's model in float32, with the library's own attention."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_greedy_tokens_are_those_of_the_source(wide: Path) -> None:
    source, larger = model(TARGET_FOLDER), model(wide)
    prompts = Prompts.of(TARGET_FOLDER)
    for _ in range(3):
        prompt = torch.tensor([prompts.take()[1][:64]])
        outputs = [
            one.generate(prompt, max_new_tokens=16, do_sample=False, eos_token_id=None)
            for one in (source, larger)
        ]
        assert outputs[0].tolist() == outputs[1].tolist()


def test_logits_differ_by_the_rounding_of_the_norms_only(wide: Path) -> None:
    """The norms' weights are rounded to bf16 once more: 2^-9 relative in each of 11, at logits up to 20."""
    prompt = torch.tensor([Prompts.of(TARGET_FOLDER).take()[1]])
    with torch.no_grad():
        logits, wide_logits = model(TARGET_FOLDER)(prompt).logits, model(wide)(prompt).logits
    assert (logits - wide_logits).abs().max() < 11 * 2**-9 * logits.abs().max()


def test_four_times_the_width_is_exact_whatever_the_epsilon(tmp_path: Path) -> None:
    """Where the root of the ratio is 2, nothing is rounded: float32 sums in another order differ by 1e-5.

    An epsilon of 0.5, as large as the mean squares, shows that it shrinks with them.
    """
    source = tmp_path / "tiny"
    torch.manual_seed(3)
    tiny = LlamaForCausalLM(llama_config(rms_norm_eps=0.5)).to(torch.bfloat16)
    tiny.save_pretrained(source)
    wide = widened(source, 0.506, tmp_path / "cache")
    assert Shape.of(wide).hidden == 4 * Shape.of(source).hidden
    tokens = torch.arange(1, 40)[None]
    with torch.no_grad():
        logits, wide_logits = model(source)(tokens).logits, model(wide)(tokens).logits
    assert torch.allclose(logits, wide_logits, atol=1e-4)
    assert logits.std() > 0.1


def test_the_weights_are_as_many_as_the_shape_says(wide: Path) -> None:
    weights = load_file(wide / "model.safetensors")
    count = sum(weight.numel() for weight in weights.values())
    assert count == Shape.of(wide).parameters
    assert abs(count / 1e6 - MILLIONS) / MILLIONS < 0.15
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}


def test_what_cannot_contribute_is_random_where_it_may_be(wide: Path) -> None:
    """Only the projections that write into the residual stream, and the embedding, hold new zeros."""
    source = load_file(TARGET_FOLDER / "model.safetensors")
    for name, weight in load_file(wide / "model.safetensors").items():
        added = torch.ones_like(weight, dtype=torch.bool)
        if name in source:
            added[tuple(slice(size) for size in source[name].shape)] = False
        zeros = (weight[added] == 0).float().mean().item()
        writes = any(part in name for part in ("o_proj", "down_proj", "embed_tokens"))
        assert zeros == 1.0 if writes else zeros < 0.01, name


def test_its_names_say_that_it_is_widened(wide: Path) -> None:
    config = json.loads((wide / "config.json").read_text())
    assert "widened" in wide.name
    assert config["widened_from"] == "target"
    assert config["max_position_embeddings"] == 4096


def test_a_widened_model_is_made_once(wide: Path, cache: Path) -> None:
    before = (wide / "model.safetensors").stat().st_mtime_ns
    assert widened(TARGET_FOLDER, MILLIONS, cache) == wide
    assert (wide / "model.safetensors").stat().st_mtime_ns == before


def test_another_source_gets_another_folder(wide: Path, cache: Path) -> None:
    other = widened(DRAFT_FOLDER, 4, cache)
    assert other.parent != wide.parent
    assert Shape.of(other).hidden < Shape.of(wide).hidden


@pytest.mark.parametrize(
    ("millions", "hidden", "layers", "feed_forward"), [(110, 768, 12, 3072), (48, 576, 9, 2304)]
)
def test_the_shape_is_the_nearest_one(
    millions: float, hidden: int, layers: int, feed_forward: int
) -> None:
    shape = shape_for(Shape.of(TARGET_FOLDER), millions)
    assert (shape.hidden, shape.layers, shape.feed_forward) == (hidden, layers, feed_forward)
    assert (shape.heads, shape.key_value_heads) == (hidden // 64, hidden // 192)


def test_what_would_be_smaller_than_its_source_is_refused() -> None:
    with pytest.raises(StartupError, match="cannot be widened to 2 million"):
        shape_for(Shape.of(TARGET_FOLDER), 2)


def test_what_is_no_llama_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(StartupError, match="only a Llama"):
        Shape.of(tmp_path)


def test_a_lengthened_draft_differs_in_its_positions_only(cache: Path) -> None:
    long = lengthened(DRAFT_FOLDER, 4096, cache)
    before = json.loads((DRAFT_FOLDER / "config.json").read_text())
    after = json.loads((long / "config.json").read_text())
    assert after == before | {"max_position_embeddings": 4096}
    for name in ("model.safetensors", "tokenizer.json"):
        assert (long / name).read_bytes() == (DRAFT_FOLDER / name).read_bytes()


def test_a_model_that_is_long_enough_is_left_alone(cache: Path) -> None:
    assert lengthened(DRAFT_FOLDER, 1024, cache) == DRAFT_FOLDER
