"""What a second start leaves out, and what memory a start takes at most."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import llama_config, needs_kernels, save_tokenizer
from outrider_server.engine.cpp_compiler import cpp_compiler
from outrider_server.engine.kernels.building import built_library
from outrider_server.engine.kernels.levels import chosen_level
from outrider_server.models import TARGET_FOLDER
from transformers import LlamaForCausalLM

pytestmark = needs_kernels

SCRIPT = Path(__file__).with_name("second_start.py")
VOCABULARY = 4096
LARGE: dict[str, object] = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}
MOST = 1.2
"""So many times what stays resident may be so while an engine loads."""


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A user's cache folder that holds the kernels, which take long to compile, and nothing else."""
    folder = tmp_path / "cache"
    (folder / "outrider").mkdir(parents=True)
    with built_library(cpp_compiler(), chosen_level()) as library:
        shutil.copy(library, folder / "outrider" / library.name)
    return folder


def start(folder: Path, cache: Path) -> dict[str, Any]:
    """A process that starts an engine, and what it prints."""
    outcome = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    told: dict[str, Any] = json.loads(outcome.stdout)
    return told


def test_a_second_start_imports_nothing_of_the_library_and_computes_the_same(
    cache: Path,
) -> None:
    first, second = (start(TARGET_FOLDER, cache) for _ in range(2))
    assert first["model"] == "LoadedModel"
    assert "transformers" in first["modules"]
    assert second["model"] == "KeptModel"
    assert second["modules"] == []
    assert second["arithmetic"] == first["arithmetic"]


def test_no_start_holds_weights_twice(tmp_path: Path, cache: Path) -> None:
    """Of float32, which the library takes from the file's own pages."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(llama_config(VOCABULARY, **LARGE))
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    save_tokenizer(folder, VOCABULARY)
    for _ in range(2):
        told = start(folder, cache)
        taken = told["ready"] - told["before"]
        assert taken > 4 * model.num_parameters()
        assert told["most"] - told["before"] <= MOST * taken
    assert told["model"] == "KeptModel"
