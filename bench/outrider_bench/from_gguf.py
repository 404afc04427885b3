"""A folder of a GGUF file's model: weights in bf16, tokenizer, chat template and end tokens.

For what the benchmark makes of folders; a GGUF file itself is served as it is.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from outrider_server.core.description import TokenizerFiles
from outrider_server.core.errors import require
from outrider_server.engine.gguf.integers import GgufLinear
from outrider_server.engine.model.formats import is_gguf
from outrider_server.engine.model.loading import LoadedModel, load_model


def run_from_gguf(file: Path, folder: Path) -> int:
    """Writes the model of `file` to `folder`, which must not be there; 0. Raises StartupError."""
    require(file.is_file(), f"the file {file} does not exist")
    require(is_gguf(file), f"{file} is no GGUF file: its name does not end in .gguf")
    require(not folder.exists(), f"{folder} is there already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        ends = write_folder(file, made)
        made.rename(folder)
    print(f"{folder}: end tokens {', '.join(map(str, ends)) or 'none'}")
    return 0


def write_folder(file: Path, folder: Path) -> tuple[int, ...]:
    """Writes the model of `file` into `folder`; returns its end tokens. Raises StartupError."""
    loaded = load_model(file, "bfloat16", torch.device("cpu"))
    _save_model(loaded, folder)
    _save_tokenizer(loaded.tokenizer, folder)
    return loaded.end_token_ids


def _save_model(loaded: LoadedModel, folder: Path) -> None:
    model = loaded.model
    for name, layer in list(model.named_modules()):
        if isinstance(layer, GgufLinear):
            model.set_submodule(name, layer.widened(torch.bfloat16))
    model.save_pretrained(folder)


def _save_tokenizer(tokenizer: TokenizerFiles, folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(tokenizer.tokenizer_json)
    roles = {
        "bos_token": tokenizer.begin_token,
        "eos_token": tokenizer.end_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unknown_token,
    }
    named = {role: token for role, token in roles.items() if token}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    if tokenizer.chat_template:
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template, encoding="utf-8")
