"""What a model folder is refused for: one sentence that names the folder, and nothing executed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from models_for_tests import VOCABULARY_SIZE, edit_json, save_folder
from outrider_server.core.errors import ModelRefused, StartupError
from outrider_server.engine.model.loading import load_model
from outrider_server.engine.options import EngineOptions
from outrider_server.host.building import engine_builder
from outrider_server.planning.config_file import read_config
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

INDEX = "model.safetensors.index.json"
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


def shard(folder: Path) -> set[str]:
    """Splits the weights of a folder into several files; returns their names."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    weights(folder).unlink()
    model.save_pretrained(folder, max_shard_size="8KB")
    names = {path.name for path in folder.glob("*.safetensors")}
    assert len(names) > 2
    assert (folder / INDEX).is_file()
    return names


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


def rename_tensors(folder: Path) -> None:
    tensors = load_file(weights(folder))
    save_file(
        {f"a.{name}": tensor for name, tensor in tensors.items()}, weights(folder), {"format": "pt"}
    )


def reshape_tensor(folder: Path) -> None:
    tensors = load_file(weights(folder))
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, weights(folder), {"format": "pt"})


def damage_the_index(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).write_text('{"weight_map": {}}')


def drop_a_shard(folder: Path) -> None:
    (folder / sorted(shard(folder))[1]).unlink()


def cut_a_shard(folder: Path) -> None:
    path = folder / sorted(shard(folder))[1]
    path.write_bytes(path.read_bytes()[:-1])


def own_code(path: str) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": path})


def quantized_by(entry: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", quantization_config=entry)


def left_over(folder: Path) -> None:
    own_code("modeling_planted.LlamaForCausalLM")(folder)
    tensors = load_file(weights(folder))
    tensors["model.layers.0.self_attn.gate.weight"] = torch.ones(4)
    save_file(tensors, weights(folder), {"format": "pt"})


def t5(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", "d_model": 8}))


def gguf_alone(folder: Path) -> None:
    weights(folder).rename(folder / "model-q4.gguf")


def adapter(folder: Path) -> None:
    edit_json(
        folder / "adapter_config.json", peft_type="LORA", base_model_name_or_path="owner/base"
    )


BREAKS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (shutil.rmtree, "does not exist"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "code of a class that the library lacks": (
        own_code("modeling_planted.Planted"),
        r"code of its own \(Planted, by auto_map in config.json\), .* llama is LlamaForCausalLM",
    ),
    "code of another repository": (
        own_code("owner/name--modeling_planted.Planted"),
        r"code of its own \(Planted, by auto_map in config.json\)",
    ),
    "code for a type that the library lacks": (
        lambda folder: edit_json(
            folder / "config.json",
            model_type="planted",
            auto_map={"AutoConfig": "configuration_planted.Planted"},
        ),
        r"does not know and which would need code of its own \(auto_map\)",
    ),
    "code with weights that the library's class lacks": (
        left_over,
        r"1 of its weights, model.layers.0.self_attn.gate.weight for one, have no place",
    ),
    "quantization of a list": (
        quantized_by(["gptq"]),
        "quantization_config in config.json must be an object with a quant_method",
    ),
    "quantization by nothing": (
        quantized_by({"bits": 4}),
        "quantization_config in config.json must be an object with a quant_method",
    ),
    "pickle only": (only_pickle, r"pickle weights only \(pytorch_model.bin\)"),
    "GGUF alone": (
        gguf_alone,
        r"has its weights as GGUF; name the file, for example .*model-q4.gguf",
    ),
    "an adapter": (adapter, r"an adapter \(LORA\) of owner/base, which is not merged .* peft"),
    "a damaged adapter": (
        lambda folder: (folder / "adapter_config.json").write_text("["),
        "an adapter, which is not merged here; merge it with peft",
    ),
    "no weights": (lambda folder: weights(folder).unlink(), "no safetensors weights"),
    "chunked layers": (
        lambda folder: edit_json(
            folder / "config.json",
            model_type="qwen2",
            layer_types=["full_attention", "chunked_attention"],
        ),
        "chunked_attention",
    ),
    "sliding window": (
        lambda folder: edit_json(folder / "config.json", model_type="cohere2", sliding_window=16),
        "sliding window of 16 tokens, which was not verified for cohere2",
    ),
    "recurrent layers": (
        lambda folder: edit_json(folder / "config.json", model_type="mamba"),
        "recurrent layers",
    ),
    "encoder-decoder": (t5, "encoder-decoder"),
    "truncated": (truncate, "model.safetensors is damaged or cut off"),
    "empty weights": (
        lambda folder: weights(folder).write_bytes(b""),
        "model.safetensors is damaged or cut off",
    ),
    "lacking a tensor": (
        drop_tensor,
        r"lacks 1 of the model's weights \(model.layers.1.mlp.up_proj.weight\)",
    ),
    "lacking many": (
        rename_tensors,
        r"lacks 21 of the model's weights \(lm_head.weight, model.embed_tokens.weight, .*, \.\.\.\)",
    ),
    "wrong shape": (
        reshape_tensor,
        r"model.norm.weight has the shape \[7\] in the weights and \[32\] by config.json",
    ),
    "an index of nothing": (damage_the_index, "does not say which files"),
    "a fraction of the weights, the rest larger than any memory": (
        lambda folder: edit_json(folder / "config.json", vocab_size=2**33),
        r"lacks weights: its files hold [\d,]+ values, the model of config.json has [\d,]+;",
    ),
    "lacking a shard": (drop_a_shard, "lacks model-00002-of-.*, which model.safetensors.index"),
    "a shard cut off": (cut_a_shard, "model-00002-of-.* is damaged or cut off"),
    "no causal model": (
        lambda folder: edit_json(folder / "config.json", model_type="vit"),
        "vit is no causal language model of the library",
    ),
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
        "its model_type is nothing_known",
    ),
    "no type": (
        lambda folder: (folder / "config.json").write_text("{}"),
        "its model_type is None",
    ),
    "a tokenizer of nothing": (
        lambda folder: (folder / "tokenizer.json").write_text("{}"),
        r"tokenizer.json (that )?cannot be read",
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


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model-q4.gguf", "is no GGUF file: it does not begin with GGUF"),
        ("model-q4.GGUF", "is no GGUF file"),
        ("model.safetensors", "is a file; name the model's folder that it stands in"),
    ],
)
def test_a_file_is_refused_as_what_it_is(name: str, reason: str, folder: Path) -> None:
    """By a service, and by a plan."""
    (folder / name).touch()
    for read in (lambda path: load_model(path, "auto", CPU), read_config):
        with pytest.raises(ModelRefused, match=reason):
            read(folder / name)


@pytest.mark.parametrize("change", [gguf_alone, adapter])
def test_a_plan_refuses_a_folder_of_another_format_in_the_same_words(
    change: Callable[[Path], None], folder: Path
) -> None:
    change(folder)
    with pytest.raises(ModelRefused) as by_service:
        load_model(folder, "auto", CPU)
    with pytest.raises(ModelRefused) as by_plan:
        read_config(folder)
    assert str(by_plan.value) == str(by_service.value)


def test_a_good_folder_is_described(folder: Path) -> None:
    model = load_model(folder, "auto", CPU)
    assert (model.name, model.architecture) == ("model", "LlamaForCausalLM")
    assert model.vocabulary_size == VOCABULARY_SIZE
    assert model.max_positions == 256
    assert model.model.dtype is torch.float32
    assert not model.model.training
    vocabulary = json.loads((folder / "tokenizer.json").read_bytes())["model"]
    assert json.loads(model.tokenizer.tokenizer_json)["model"] == vocabulary
    assert (model.tokenizer.begin_token, model.tokenizer.end_token) == ("", "w1")
    assert not (folder / "executed").exists()


def test_sharded_weights_are_those_of_one_file(folder: Path) -> None:
    whole = load_model(folder, "auto", CPU)
    shard(folder)
    parts = load_model(folder, "auto", CPU)
    assert parts.parameter_count == whole.parameter_count
    assert parts.model_fingerprint != whole.model_fingerprint
    wanted = whole.model.state_dict()
    for name, tensor in parts.model.state_dict().items():
        assert torch.equal(tensor, wanted[name]), name


def test_a_shard_is_part_of_the_fingerprint(folder: Path) -> None:
    name = sorted(shard(folder))[-1]
    before = load_model(folder, "auto", CPU).model_fingerprint
    tensors = load_file(folder / name)
    save_file({key: value + 1 for key, value in tensors.items()}, folder / name, {"format": "pt"})
    assert load_model(folder, "auto", CPU).model_fingerprint != before


@pytest.mark.parametrize("name", ["owner/model", "no-such-folder/model"])
def test_a_name_that_the_hub_does_not_give_is_refused_in_one_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelRefused, match="cannot be fetched from the hub") as refused:
        load_model(Path(name), "auto", CPU)
    assert name in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_name_on_the_hub_is_fetched_without_code_and_pickles(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def fetch(name: str, **settings: object) -> str:
        asked.update(settings, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    model = load_model(Path("owner/model-1.5"), "auto", CPU)
    assert (model.name, asked["name"]) == ("model-1.5", "owner/model-1.5")
    kept = filter_repo_objects(
        [
            "config.json",
            "tokenizer.json",
            "model-00001-of-00002.safetensors",
            "model.safetensors.index.json",
            "chat_template.jinja",
            "additional_chat_templates/tool_use.jinja",
            "original/params.json",
            "modeling_own.py",
            "pytorch_model.bin",
            "original/model.safetensors",
            "consolidated.safetensors",
            "vocab.json",
            "merges.txt",
            "tokenizer.model",
            "adapter_config.json",
            "adapter_model.safetensors",
        ],
        allow_patterns=asked["allow_patterns"],
        ignore_patterns=asked["ignore_patterns"],
    )
    assert list(kept) == [
        "config.json",
        "tokenizer.json",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "chat_template.jinja",
        "additional_chat_templates/tool_use.jinja",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
        "adapter_config.json",
    ]


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [("bfloat16", torch.bfloat16), ("float32", torch.float32), ("float16", torch.float16)],
)
def test_the_element_type_is_the_one_asked_for(
    folder: Path, dtype: str, wanted: torch.dtype
) -> None:
    assert load_model(folder, dtype, CPU).model.dtype is wanted


def test_fingerprints_change_with_what_they_identify(folder: Path) -> None:
    first = load_model(folder, "auto", CPU)
    own = str(first.model.dtype).removeprefix("torch.")
    for dtype in ("float32", "bfloat16", "float16"):
        is_own = load_model(folder, dtype, CPU).model_fingerprint == first.model_fingerprint
        assert is_own is (dtype == own)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, indent=2))
    assert load_model(folder, "auto", CPU).vocabulary_fingerprint == first.vocabulary_fingerprint
    tokenizer["model"]["vocab"] |= {"w3": 4, "w4": 3}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    second = load_model(folder, "auto", CPU)
    assert second.model_fingerprint == first.model_fingerprint
    assert second.vocabulary_fingerprint != first.vocabulary_fingerprint
    tensors = load_file(weights(folder))
    tensors["model.norm.weight"] = tensors["model.norm.weight"] + 1
    save_file(tensors, weights(folder), {"format": "pt"})
    third = load_model(folder, "auto", CPU)
    assert third.model_fingerprint != first.model_fingerprint
    assert third.vocabulary_fingerprint == second.vocabulary_fingerprint
    del tokenizer["model"]["vocab"][f"w{VOCABULARY_SIZE - 1}"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    fewer_drawn = load_model(folder, "auto", CPU)
    assert (fewer_drawn.vocabulary_size, fewer_drawn.vocabulary.output_rows) == (60, 61)
    assert fewer_drawn.model_fingerprint != third.model_fingerprint


SHAPES = {
    "dtype": "auto",
    "device": "cpu",
    "slots": 2,
    "rows": 2,
    "width": 8,
    "prefill_width": 16,
    "max_context_tokens": 0,
    "compile": "off",
    "threads": 1,
    "park_bytes": 0,
}


def test_a_builder_takes_the_models_own_context_unless_told(folder: Path) -> None:
    assert engine_builder(EngineOptions(folder=folder, **SHAPES))().limits.max_context_tokens == 256
    shorter = engine_builder(
        EngineOptions(folder=folder, **(SHAPES | {"max_context_tokens": 40}))
    )()
    assert shorter.limits.max_context_tokens == 40


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_context_tokens": 257}, "longer than the model's 256"),
        ({"device": "no-such-device"}, "device no-such-device is no torch device"),
        ({"device": "xpu"}, "device xpu cannot be used"),
    ],
)
def test_a_builder_refuses_what_the_machine_or_the_model_has_not(
    folder: Path, change: dict[str, object], reason: str
) -> None:
    with pytest.raises(StartupError, match=reason):
        engine_builder(EngineOptions(folder=folder, **(SHAPES | change)))()
