"""What a model folder is refused for: one sentence that names the folder, and nothing executed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models_for_tests import VOCABULARY_SIZE, edit_json, save_folder
from outrider_server.engine.build import engine_builder
from outrider_server.engine.loading import load_model
from outrider_server.speculation.errors import ModelRefused, StartupError
from safetensors.torch import load_file, save_file

CPU = torch.device("cpu")
PLANTED = """
from pathlib import Path
(Path(__file__).parent / "executed").touch()
"""


@pytest.fixture(scope="module")
def good_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("models") / "good")


@pytest.fixture
def folder(good_folder: Path, tmp_path: Path) -> Path:
    copy = shutil.copytree(good_folder, tmp_path / "model")
    for name in ("modeling_planted.py", "configuration_planted.py", "tokenization_planted.py"):
        (copy / name).write_text(PLANTED)
    return copy


def weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def truncate(folder: Path) -> None:
    content = weights(folder).read_bytes()
    weights(folder).write_bytes(content[: len(content) // 2])


def only_pickle(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    weights(folder).unlink()


def drop_tensor(folder: Path) -> None:
    tensors = load_file(weights(folder))
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, weights(folder), {"format": "pt"})


def reshape_tensor(folder: Path) -> None:
    tensors = load_file(weights(folder))
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, weights(folder), {"format": "pt"})


def own_code(name: str, key: str) -> Callable[[Path], None]:
    classes = {"auto_map": {key: "modeling_planted.Planted"}}
    return lambda folder: edit_json(folder / name, **classes)


def t5(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 8}))


BREAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (shutil.rmtree, "does not exist"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "code in config": (own_code("config.json", "AutoModelForCausalLM"), "auto_map in config.json"),
    "code in tokenizer": (
        own_code("tokenizer_config.json", "AutoTokenizer"),
        "auto_map in tokenizer_config.json",
    ),
    "pickle only": (only_pickle, r"pickle weights only \(pytorch_model.bin\)"),
    "no weights": (lambda folder: weights(folder).unlink(), "no safetensors weights"),
    "sliding layers": (
        lambda folder: edit_json(
            folder / "config.json",
            model_type="qwen2",
            layer_types=["full_attention", "sliding_attention"],
        ),
        "sliding_attention",
    ),
    "sliding window": (
        lambda folder: edit_json(folder / "config.json", model_type="mistral", sliding_window=16),
        "sliding window of 16 tokens",
    ),
    "encoder-decoder": (t5, "encoder-decoder"),
    "truncated": (truncate, "cannot be loaded"),
    "empty weights": (lambda folder: weights(folder).write_bytes(b""), "cannot be loaded"),
    "lacking a tensor": (drop_tensor, r"lacks 1 of the model's weights"),
    "wrong shape": (reshape_tensor, "cannot be loaded"),
    "invalid JSON": (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
    "JSON of another kind": (
        lambda folder: (folder / "config.json").write_text("[1]"),
        "not hold a JSON object",
    ),
    "binary config": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe\x00"),
        "not valid JSON",
    ),
    "unknown type": (
        lambda folder: edit_json(folder / "config.json", model_type="nothing_known"),
        "cannot be loaded",
    ),
    "no type": (
        lambda folder: (folder / "config.json").write_text("{}"),
        "cannot be loaded",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_folder_is_refused_in_one_sentence_and_executes_nothing(name: str, folder: Path) -> None:
    damage, reason = BREAKS[name]
    damage(folder)
    with pytest.raises(ModelRefused, match=reason) as refused:
        load_model(folder, "auto", CPU)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (folder / "executed").exists()


def test_a_good_folder_is_described(folder: Path) -> None:
    model = load_model(folder, "auto", CPU)
    assert (model.name, model.architecture) == ("model", "LlamaForCausalLM")
    assert model.vocabulary_size == VOCABULARY_SIZE
    assert model.max_positions == 256
    assert model.model.dtype is torch.float32
    assert not model.model.training
    assert model.tokenizer.tokenizer_json == (folder / "tokenizer.json").read_bytes()
    assert (model.tokenizer.begin_token, model.tokenizer.end_token) == ("", "w1")
    assert not (folder / "executed").exists()


def test_the_chat_template_comes_from_its_file_or_the_settings(folder: Path) -> None:
    edit_json(
        folder / "tokenizer_config.json", chat_template="in settings", bos_token={"content": "<s>"}
    )
    tokenizer = load_model(folder, "auto", CPU).tokenizer
    assert (tokenizer.chat_template, tokenizer.begin_token) == ("in settings", "<s>")
    (folder / "chat_template.jinja").write_text("in a file")
    assert load_model(folder, "auto", CPU).tokenizer.chat_template == "in a file"


@pytest.mark.parametrize(
    ("dtype", "wanted"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)]
)
def test_the_element_type_is_the_one_asked_for(
    folder: Path, dtype: str, wanted: torch.dtype
) -> None:
    assert load_model(folder, dtype, CPU).model.dtype is wanted


def test_fingerprints_change_with_what_they_identify(folder: Path) -> None:
    first = load_model(folder, "auto", CPU)
    assert load_model(folder, "bfloat16", CPU).model_fingerprint == first.model_fingerprint
    (folder / "tokenizer.json").write_text("{}")
    second = load_model(folder, "auto", CPU)
    assert second.model_fingerprint == first.model_fingerprint
    assert second.vocabulary_fingerprint != first.vocabulary_fingerprint
    tensors = load_file(weights(folder))
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, weights(folder), {"format": "pt"})
    third = load_model(folder, "auto", CPU)
    assert third.model_fingerprint != first.model_fingerprint
    assert third.vocabulary_fingerprint == second.vocabulary_fingerprint


SHAPES = {
    "dtype": "auto",
    "device": "cpu",
    "slots": 2,
    "row_buckets": (1, 2),
    "width": 8,
    "prefill_width": 16,
    "max_context_tokens": 0,
    "compile_mode": "off",
    "reproducible": False,
    "threads": 1,
}


def test_a_builder_takes_the_models_own_context_unless_told(folder: Path) -> None:
    assert engine_builder(folder, **SHAPES)().limits.max_context_tokens == 256
    shorter = engine_builder(folder, **(SHAPES | {"max_context_tokens": 40}))()
    assert shorter.limits.max_context_tokens == 40


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_context_tokens": 257}, "longer than the model's 256"),
        ({"device": "no-such-device"}, "device no-such-device cannot be used"),
    ],
)
def test_a_builder_refuses_what_the_machine_or_the_model_has_not(
    folder: Path, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(StartupError, match=reason):
        engine_builder(folder, **(SHAPES | change))()
