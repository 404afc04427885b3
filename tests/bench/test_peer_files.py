"""What peers read of a GGUF file: the file itself, or its weights in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from gguf_files import Form, write_model
from models_for_tests import tiny_llama
from outrider_bench.model_cache import end_tokens
from outrider_bench.models import prepared_models
from outrider_bench.peer_files import library_folder, own_place, packed_file
from outrider_bench.prompts import Prompts
from outrider_bench.questions import ChatTokens
from outrider_server.core.errors import StartupError
from outrider_server.models import DRAFT_FOLDER
from safetensors.torch import load_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_model(tiny_llama(), tmp_path / "tiny.gguf", Form())


def test_a_peer_that_reads_gguf_files_reads_the_very_file(file: Path, tmp_path: Path) -> None:
    assert packed_file(file, tmp_path / "cache", "BF16") == file
    made = packed_file(DRAFT_FOLDER, tmp_path / "cache", "BF16")
    assert made != DRAFT_FOLDER
    assert made.suffix == ".gguf"


def test_a_peer_that_writes_beside_what_it_reads_writes_elsewhere(
    file: Path, tmp_path: Path
) -> None:
    link = own_place(file, tmp_path / "cache")
    assert link.parent != file.parent
    assert link.resolve() == file.resolve()
    assert own_place(file, tmp_path / "cache") == link


def test_the_library_reads_a_folder_that_is_made_once(file: Path, tmp_path: Path) -> None:
    folder = library_folder(file, tmp_path / "cache")
    weights = load_file(folder / "model.safetensors")
    own = tiny_llama().state_dict()
    assert torch.equal(weights["lm_head.weight"], own["lm_head.weight"].bfloat16())
    assert end_tokens(folder) == end_tokens(file) == [1]
    made = (folder / "config.json").stat().st_mtime_ns
    assert (library_folder(file, tmp_path / "cache") / "config.json").stat().st_mtime_ns == made
    assert library_folder(DRAFT_FOLDER, tmp_path / "cache") == DRAFT_FOLDER


def test_another_file_is_another_folder(file: Path, tmp_path: Path) -> None:
    first = library_folder(file, tmp_path / "cache")
    write_model(tiny_llama(seed=1), file, Form())
    assert library_folder(file, tmp_path / "cache") != first


def test_a_gguf_file_is_a_model_of_a_run(file: Path) -> None:
    models = prepared_models(file, None, 0.0)
    assert models.longest == 256
    assert "tiny.gguf" in models.label
    with pytest.raises(StartupError, match=r"model file .* has no chat template"):
        ChatTokens(file)
    assert max(Prompts.of(file).take()[1]) < 61


def test_a_chat_of_a_gguf_file_has_its_template_and_tokens(tmp_path: Path) -> None:
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    form = Form(change=lambda writer: writer.add_chat_template(template))
    file = write_model(tiny_llama(), tmp_path / "chat.gguf", form)
    chat = ChatTokens(file)
    assert json.dumps(chat.text((5, 6)))
