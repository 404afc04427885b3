"""A model that an earlier start recorded: the same bits, without the library, and never of something else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import (
    edit_json,
    needs_kernels,
    packable_llama,
    save_tokenizer,
)
from outrider_server.core.progress import Report, Stage
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine import machine
from outrider_server.engine.engine import Engine
from outrider_server.engine.kept_model import KeptModel
from outrider_server.engine.layout import Row
from outrider_server.engine.model import checkpoint
from outrider_server.engine.options import EngineOptions
from outrider_server.engine.records import Records
from outrider_server.engine.starting import Start
from outrider_server.host.building import engine_builder
from safetensors.torch import load_file, save_file
from transformers import (
    BloomConfig,
    GPT2Config,
    MixtralConfig,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

pytestmark = needs_kernels

VOCABULARY = 61
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GATED = SMALL | {"num_key_value_heads": 1, "intermediate_size": 48}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 16,
    "long_factor": [2.0] * 16,
    "original_max_position_embeddings": 32,
}
MODELS: dict[str, PreTrainedConfig] = {
    "tied": Qwen2Config(**GATED, tie_word_embeddings=True),
    "turned and fused": GPT2Config(**SMALL),
    "experts stacked by the library": MixtralConfig(
        **GATED, num_local_experts=4, sliding_window=None
    ),
    "biased by distance": BloomConfig(**SMALL),
    "rotated by length, within the border": Phi3Config(**GATED, rope_parameters=LONG_ROPE),
    "rotated by length": Phi3Config(
        **GATED, rope_parameters=LONG_ROPE, original_max_position_embeddings=32
    ),
}


def save(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    save_tokenizer(folder, VOCABULARY)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Llama's."""
    return save(tmp_path / "model", packable_llama())


def start(folder: Path, **options: Any) -> tuple[Engine, list[Stage]]:
    """An engine that keeps its records beside the folder, and the stages of its start."""
    reports: list[Report] = []
    asked = {"slots": 2, "prefill_width": 16, "threads": 1, "max_context_tokens": 96, **options}
    begun = Start(reports.append, Records(folder.parent / "records"))
    engine = engine_builder(EngineOptions(folder=folder, **asked), start=begun)()
    return engine, list(dict.fromkeys(report.stage for report in reports))


def is_kept(engine: Engine) -> bool:
    return isinstance(engine.loaded, KeptModel)


def logits(engine: Engine) -> torch.Tensor:
    """Of a text, read at the start and at the end of a context of nothing."""
    engine.runner.wipe(1)
    tokens = tuple(7 * index % VOCABULARY for index in range(8))
    rows = [Row(0, 0, tokens), Row(1, 40, tokens, reading=48)]
    return torch.cat(engine.runner.logits(rows, 2))


def text(engine: Engine) -> list[int]:
    """What is drawn after a few tokens."""
    opened = engine.open("a session", 1, 0, Draw(SamplingParams(temperature=0.7), 3, 0))
    tokens = [5, 6, 7]
    while len(tokens) < 40:
        last = (opened.slot, len(tokens) - 1, (tokens[-1],))
        tokens += engine.decide([last]).rows[0].tokens
    return tokens


def assert_same(first: Engine, second: Engine) -> None:
    assert second.arithmetic == first.arithmetic
    assert torch.equal(logits(first), logits(second))
    assert text(first) == text(second)
    assert second.describe() == first.describe()
    assert second.loaded.tokenizer == first.loaded.tokenizer
    assert second.runner.length_rule == first.runner.length_rule


@pytest.mark.parametrize("dtype", ["auto", "float32", "float16"])
def test_a_second_start_gives_the_same_bits_and_loads_nothing_by_the_library(
    folder: Path, dtype: str
) -> None:
    first, loading = start(folder, dtype=dtype)
    second, stages = start(folder, dtype=dtype)
    assert not is_kept(first)
    assert Stage.LOADING in loading
    assert is_kept(second)
    assert stages == [
        Stage.READING,
        Stage.PACKING,
        Stage.WARMING,
        Stage.COMPARING,
        Stage.TIMING,
    ]
    assert_same(first, second)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_every_form_are_kept(tmp_path: Path, name: str) -> None:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(MODELS[name]).to(torch.bfloat16)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.add_(torch.randn_like(weight) * 0.1)
    folder = save(tmp_path / "model", model)
    first, _ = start(folder)
    second, _ = start(folder)
    assert is_kept(second)
    assert_same(first, second)


def test_a_model_in_several_files_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    packable_llama().save_pretrained(folder, max_shard_size="20KB")
    save_tokenizer(folder, VOCABULARY)
    assert len(list(folder.glob("*.safetensors"))) > 2
    first, _ = start(folder)
    second, _ = start(folder)
    assert is_kept(second)
    assert_same(first, second)


def other_weights(folder: Path) -> None:
    save(folder, packable_llama(seed=1))


def other_norm(folder: Path) -> None:
    """What is kept by value."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = 2.0
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def other_configuration(folder: Path) -> None:
    edit_json(folder / "config.json", rms_norm_eps=0.5)


def other_tokenizer(folder: Path) -> None:
    save_tokenizer(folder, VOCABULARY - 1)


def other_generation(folder: Path) -> None:
    edit_json(folder / "generation_config.json", eos_token_id=7)


@pytest.mark.parametrize(
    "change",
    [other_weights, other_norm, other_configuration, other_tokenizer, other_generation],
)
def test_a_folder_that_changed_is_recorded_anew(
    folder: Path, change: Callable[[Path], None]
) -> None:
    start(folder)
    change(folder)
    changed, _ = start(folder)
    assert not is_kept(changed)
    again, _ = start(folder)
    assert is_kept(again)
    assert_same(changed, again)


def test_a_weight_that_no_sample_sees_is_recorded_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "_add_samples", lambda digest, path: None)
    before, _ = start(folder)
    other_norm(folder)
    after, _ = start(folder)
    assert not is_kept(after)
    assert before.arithmetic != after.arithmetic


@pytest.mark.parametrize(
    "options",
    [{"dtype": "float32"}, {"max_context_tokens": 64}, {"compile": "off"}, {"attention": "sdpa"}],
    ids=str,
)
def test_other_options_find_nothing_kept(folder: Path, options: dict[str, Any]) -> None:
    start(folder)
    other, _ = start(folder, **options)
    assert not is_kept(other)


@pytest.mark.parametrize("fact", ["cpu_flags", "_version", "_sources_digest"])
def test_another_machine_finds_nothing_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fact: str
) -> None:
    start(folder)
    with monkeypatch.context() as patch:
        patch.setattr(machine, fact, lambda *_: "another")
        assert not is_kept(start(folder)[0])
    assert is_kept(start(folder)[0])


def kept_file(folder: Path) -> Path:
    (found,) = (folder.parent / "records").glob("model-*.json")
    return found


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-400])


def one_letter(path: Path) -> None:
    """Within the constants."""
    record = json.loads(path.read_text())
    constants = record["outcome"]["pass"]["constants"]
    middle = len(constants) // 2
    letter = "A" if constants[middle] != "A" else "B"
    record["outcome"]["pass"]["constants"] = constants[:middle] + letter + constants[middle + 1 :]
    path.write_text(json.dumps(record))


def one_number(path: Path) -> None:
    record = json.loads(path.read_text())
    record["outcome"]["pass"]["computations"][0][-1][0][1] += 1
    path.write_text(json.dumps(record))


@pytest.mark.parametrize("damage", [cut, one_letter, one_number])
def test_a_damaged_file_is_not_believed_and_written_anew(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    first, _ = start(folder)
    damage(kept_file(folder))
    second, _ = start(folder)
    assert not is_kept(second)
    third, _ = start(folder)
    assert is_kept(third)
    assert_same(first, third)


@pytest.mark.parametrize(
    "change",
    [{"pass": {}}, {"pass": None}, {"facts": {}}, {"vocabulary": [1]}, {"dtype": "nn"}],
    ids=str,
)
def test_an_outcome_that_is_no_model_is_not_believed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    start(folder)
    recall = Records.recall
    monkeypatch.setattr(
        Records,
        "recall",
        lambda self, kind: {**recall(self, kind), **(change if kind == "model" else {})},
    )
    assert not is_kept(start(folder)[0])


def test_where_nothing_can_be_kept_a_start_says_so_once_and_goes_on(folder: Path) -> None:
    complaints: list[str] = []
    (folder.parent / "records").write_text("no folder")
    records = Records(folder.parent / "records", complain=complaints.append)
    options = EngineOptions(folder=folder, slots=2, max_context_tokens=96)
    for _ in range(2):
        engine = engine_builder(options, start=Start(records=records))()
        assert not is_kept(engine)
    assert all("cannot be kept" in complaint for complaint in complaints)
    assert complaints


def test_what_the_library_makes_of_several_weights_is_not_kept_and_served_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here of a weight and a number, at each start."""
    folder = save(tmp_path / "model", packable_llama())
    from_pretrained = AutoModelForCausalLM.from_pretrained

    def loaded_otherwise(*given: Any, **named: Any) -> Any:
        model, found = from_pretrained(*given, **named)
        with torch.no_grad():
            model.model.layers[1].mlp.up_proj.weight.mul_(0.5)
        return model, found

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", loaded_otherwise)
    first, _ = start(folder)
    second, _ = start(folder)
    assert not is_kept(second)
    assert torch.equal(logits(first), logits(second))


def test_the_name_is_that_of_the_folder_now(folder: Path) -> None:
    start(folder)
    moved = folder.rename(folder.parent / "another")
    engine, _ = start(moved)
    assert is_kept(engine)
    assert engine.describe().name == "another"
