"""Folders that bring code for a model that the library has: loaded as the library's, and nothing executed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models_for_tests import edit_json, tiny_limits
from outrider_server.core.errors import ModelRefused
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.layout import Row
from outrider_server.engine.model.loading import load_model
from outrider_server.engine.model.own_code import SETTINGS_OF_MPT
from outrider_server.engine.step import StepRunner
from outrider_server.planning.config_file import read_config
from outrider_server.planning.counting import count_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, FalconConfig, MptConfig, Phi3Config, PreTrainedConfig

CPU = torch.device("cpu")
GREEDY = Draw(SamplingParams(temperature=0.0), 0, 0)
SHARED = {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
IDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
MODELS: dict[str, tuple[PreTrainedConfig, str]] = {
    "phi3": (
        Phi3Config(**SHARED, **IDS, intermediate_size=48, max_position_embeddings=64),
        "Phi3ForCausalLM",
    ),
    "falcon": (FalconConfig(**SHARED, **IDS), "FalconForCausalLM"),
    "mpt": (MptConfig(**SHARED, **IDS, max_seq_len=64), "MPTForCausalLM"),
}
PLANTED = """
from pathlib import Path
(Path(__file__).parent / "executed").touch()
"""


def save(folder: Path, kind: str) -> Path:
    """A folder as its makers published it: class names of their own files, and these files."""
    torch.manual_seed(3)
    config, own = MODELS[kind]
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words = {f"w{token}": token for token in range(SHARED["vocab_size"])}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
    return bring_code(folder, kind, own)


def bring_code(folder: Path, kind: str, own: str) -> Path:
    files = {"AutoConfig": f"configuration_{kind}", "AutoModelForCausalLM": f"modeling_{kind}"}
    names = {"AutoConfig": "Config", "AutoModelForCausalLM": own}
    edit_json(
        folder / "config.json",
        auto_map={name: f"{files[name]}.{names[name]}" for name in files},
        architectures=[own],
    )
    edit_json(
        folder / "tokenizer_config.json",
        auto_map={"AutoTokenizer": [f"tokenization_{kind}.Own", f"tokenization_{kind}.OwnFast"]},
    )
    for name in (*files.values(), f"tokenization_{kind}"):
        (folder / f"{name}.py").write_text(PLANTED)
    return folder


def decided(folder: Path) -> tuple[int, ...]:
    runner = StepRunner(
        load_model(folder, "float32", CPU), tiny_limits(max_context_tokens=32), "off"
    )
    runner.draws.write(0, GREEDY)
    return runner.decide([Row(0, 0, (7, 8, 9, 10))], 1)[0].tokens


@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_the_library_has_is_loaded_natively_whatever_code_is_beside_it(
    kind: str, tmp_path: Path
) -> None:
    folder = save(tmp_path, kind)
    tokens = torch.tensor([[7, 8, 9, 10]])
    content = json.loads((folder / "config.json").read_text())
    wanted = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)(tokens).logits[0]
    assert decided(folder) == tuple(wanted.argmax(-1).tolist())
    assert "auto_map" in content
    assert not (folder / "executed").exists()
    assert not [note for note in count_model(read_config(folder)).notes if "refuses" in note]


@pytest.mark.parametrize("setting", SETTINGS_OF_MPT)
def test_what_the_librarys_mpt_leaves_out_is_refused(setting: str, tmp_path: Path) -> None:
    folder = save(tmp_path, "mpt")
    content = json.loads((folder / "config.json").read_text())
    if setting == "logit_scale":
        edit_json(folder / "config.json", logit_scale="inv_sqrt_d_model")
    else:
        value = not SETTINGS_OF_MPT[setting]
        edit_json(folder / "config.json", attn_config=content["attn_config"] | {setting: value})
    with pytest.raises(ModelRefused, match=f"it wants {setting} .*, which the library's mpt"):
        load_model(folder, "auto", CPU)
    assert any(setting in note for note in count_model(read_config(folder)).notes)


def test_a_plan_says_that_a_folder_needs_code_of_its_own(tmp_path: Path) -> None:
    folder = bring_code(save(tmp_path, "phi3"), "phi3", "Phi3SmallForCausalLM")
    notes = count_model(read_config(folder)).notes
    assert any("code of its own (Phi3SmallForCausalLM" in note for note in notes)
