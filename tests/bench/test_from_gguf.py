"""A folder made of a GGUF file holds what the file does: weights, tokens, chat template, end tokens."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
import torch
from outrider_bench import gguf_file
from outrider_bench.from_gguf import run_from_gguf
from outrider_bench.gguf_file import GgufTypes, write_gguf
from outrider_server.core.errors import StartupError
from outrider_server.models import DRAFT_FOLDER
from safetensors.torch import load_file
from tokenizers import Tokenizer

ADD_SPLIT = gguf.GGUFWriter.add_tokenizer_pre
TEMPLATE = "{{ messages[0]['content'] }}"


def written(path: Path, monkeypatch: pytest.MonkeyPatch, split: str, kind: str = "BF16") -> Path:
    """The bundled draft as a file of someone else's: with a chat template and a second end token."""

    def add(self: gguf.GGUFWriter, _: str) -> None:
        ADD_SPLIT(self, split)
        self.add_chat_template(TEMPLATE)
        self.add_eot_token_id(3)

    monkeypatch.setattr(gguf_file.GGUFWriter, "add_tokenizer_pre", add)
    write_gguf(DRAFT_FOLDER, path, GgufTypes(layers=kind))
    return path


def test_a_folder_holds_what_the_file_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path / "draft.gguf", monkeypatch, "smollm")
    folder = tmp_path / "made" / "draft"
    assert run_from_gguf(file, folder) == 0
    source = load_file(DRAFT_FOLDER / "model.safetensors")
    weights = load_file(folder / "model.safetensors")
    assert weights.keys() == source.keys()
    assert all(torch.equal(weights[name], source[name]) for name in source)
    assert (folder / "chat_template.jinja").read_text() == TEMPLATE
    own = json.loads((DRAFT_FOLDER / "config.json").read_bytes())["eos_token_id"]
    for name in ("config.json", "generation_config.json"):
        assert json.loads((folder / name).read_bytes())["eos_token_id"] == [own, 3]
    assert capsys.readouterr().out == f"{folder}: end tokens {own}, 3\n"


def test_digits_are_split_off_before_bytes_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two spaces before a digit stay together for SmolLM, whose digits stand alone, and part for GPT-2."""
    pieces = {}
    for split in ("smollm", "gpt-2"):
        run_from_gguf(written(tmp_path / f"{split}.gguf", monkeypatch, split), tmp_path / split)
        tokenizer = Tokenizer.from_file(str(tmp_path / split / "tokenizer.json"))
        found = tokenizer.pre_tokenizer.pre_tokenize_str("at  12")
        pieces[split] = [piece for piece, _ in found]
    assert pieces == {"smollm": ["at", "ĠĠ", "1", "2"], "gpt-2": ["at", "Ġ", "Ġ12"]}


def test_quantized_weights_come_back_in_bfloat16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "draft.gguf", monkeypatch, "gpt-2", "Q8_0")
    run_from_gguf(file, tmp_path / "made")
    name = "model.layers.0.mlp.up_proj.weight"
    source = load_file(DRAFT_FOLDER / "model.safetensors")[name].float()
    weight = load_file(tmp_path / "made" / "model.safetensors")[name]
    assert weight.dtype is torch.bfloat16
    assert (weight.float() - source).abs().max() <= source.abs().max() / 100


def test_a_tokenizer_that_is_not_known_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path / "draft.gguf", monkeypatch, "never-seen")
    with pytest.raises(StartupError, match="its tokenizer splits text as 'never-seen'"):
        run_from_gguf(file, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(StartupError, match="is no GGUF file"):
        run_from_gguf(tmp_path / "file", tmp_path / "made")


def test_a_folder_that_is_there_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path / "draft.gguf", monkeypatch, "gpt-2")
    with pytest.raises(StartupError, match="is there already"):
        run_from_gguf(file, tmp_path)
