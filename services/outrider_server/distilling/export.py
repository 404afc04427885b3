"""A draft's folder: a model of the library's with the target's tokenizer, and which tokens it knows."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ..core.description import TokenizerFiles
from ..engine.model.formats import is_gguf
from .disk import kept_room
from .draft_vocabulary import CONFIG_ENTRY, MAP_FILE, MAP_TENSOR, DraftVocabulary
from .student import weights_of

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "vocab.json", "merges.txt", "vocab.txt"),
    *("chat_template.jinja", "chat_template.json"),
)
TEMPLATES = "additional_chat_templates"
LEFT_OUT = ("_name_or_path", "transformers_version", "_attn_implementation_autoset")


def write_draft(
    folder: Path,
    student: PreTrainedModel,
    vocabulary: DraftVocabulary,
    dtype: torch.dtype,
    source: Path,
    tokenizer: TokenizerFiles,
    card: str,
) -> None:
    """Writes all files into a folder, which is made. `source` is the target's folder or file.

    Raises StartupError for a disk without room.
    """
    with kept_room(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write_tokenizer(folder, source, tokenizer)
        save_file(dict(weights_of(student, dtype)), folder / "model.safetensors", {"format": "pt"})
        if not vocabulary.is_whole:
            ids = vocabulary.token_ids.to(torch.int32)
            save_file({MAP_TENSOR: ids}, folder / MAP_FILE)
        _write_json(folder / "generation_config.json", student.generation_config.to_dict())
        (folder / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        _write_json(folder / "config.json", _config(student, vocabulary, dtype))


def put_in_place(made: Path, output: Path) -> None:
    """Moves the files of a finished folder into another, the configuration last: without it that is no model.

    Raises StartupError.
    """
    with kept_room(output):
        (output / "config.json").unlink(missing_ok=True)
        for path in sorted(made.iterdir(), key=lambda path: path.name == "config.json"):
            place = output / path.name
            if place.is_dir():
                shutil.rmtree(place)
            path.rename(place)
        made.rmdir()


def _write_tokenizer(folder: Path, source: Path, tokenizer: TokenizerFiles) -> None:
    """The target's files as they are; of a GGUF file what it holds of them."""
    if not is_gguf(source):
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        if (source / TEMPLATES).is_dir():
            shutil.copytree(source / TEMPLATES, folder / TEMPLATES)
    if (folder / "tokenizer.json").is_file():
        return
    (folder / "tokenizer.json").write_bytes(tokenizer.tokenizer_json)
    named = {
        "bos_token": tokenizer.begin_token,
        "eos_token": tokenizer.end_token,
        "pad_token": tokenizer.pad_token,
        "unk_token": tokenizer.unknown_token,
        "chat_template": tokenizer.chat_template,
    }
    config = {name: value for name, value in named.items() if value}
    _write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend", **config}
    )


def _config(
    student: PreTrainedModel, vocabulary: DraftVocabulary, dtype: torch.dtype
) -> dict[str, Any]:
    config = {name: each for name, each in student.config.to_dict().items() if name not in LEFT_OUT}
    config["architectures"] = [type(student).__name__]
    config["dtype"] = str(dtype).removeprefix("torch.")
    if not vocabulary.is_whole:
        config[CONFIG_ENTRY] = dict(vocabulary.entry())
    return config


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
