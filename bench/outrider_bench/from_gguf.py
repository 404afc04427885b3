"""A folder that Outrider serves, made of a GGUF file: weights in bf16, tokenizer, chat template, end tokens.

transformers reads the file and undoes its quantization. It does not read how a tokenizer splits text before
it merges, nor more than one end token: both are taken from the file's own metadata here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from gguf import GGUFReader
from outrider_server.core.errors import StartupError, require
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as library_logging

MAGIC = b"GGUF"
END_TOKENS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")


def _bytes() -> PreTokenizer:
    return ByteLevel(add_prefix_space=False, use_regex=True)


SPLITS: dict[str, Callable[[], PreTokenizer]] = {
    "gpt-2": _bytes,
    "smollm": lambda: Sequence([Digits(individual_digits=True), _bytes()]),
}
"""How text is split before its bytes are merged, by the file's `tokenizer.ggml.pre`."""


def run_from_gguf(file: Path, folder: Path) -> int:
    """Writes the model of `file` to `folder`, which must not be there; 0. Raises StartupError."""
    require(file.is_file(), f"the file {file} does not exist")
    with file.open("rb") as start:
        require(start.read(len(MAGIC)) == MAGIC, f"{file} is no GGUF file")
    require(not folder.exists(), f"{folder} is there already")
    require(
        hasattr(transformers, "GgufConfig"),
        f"GGUF files need transformers 5.24 or newer; this is {transformers.__version__}",
    )
    metadata = GGUFReader(file)
    split, ends = _split_of(file, metadata), _end_tokens(metadata)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / folder.name
        _save_model(file, made, ends)
        _save_tokenizer(file, made, metadata, split)
        made.rename(folder)
    print(f"{folder}: end tokens {', '.join(map(str, ends)) or 'none'}")
    return 0


def _save_model(file: Path, folder: Path, ends: list[int]) -> None:
    library_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(
        file.parent,
        gguf_file=file.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        local_files_only=True,
    )
    named = ends[0] if len(ends) == 1 else ends or None
    model.config.eos_token_id = model.generation_config.eos_token_id = named
    model.save_pretrained(folder)


def _save_tokenizer(file: Path, folder: Path, metadata: GGUFReader, split: PreTokenizer) -> None:
    tokenizer = AutoTokenizer.from_pretrained(
        file.parent, gguf_file=file.name, local_files_only=True
    )
    tokenizer.backend_tokenizer.pre_tokenizer = split
    listed = metadata.fields["tokenizer.ggml.tokens"].contents()
    if tokenizer.convert_ids_to_tokens(list(range(len(listed)))) != listed:
        raise StartupError(f"the tokenizer of {file} was not read as it is written there")
    tokenizer.save_pretrained(folder)


def _split_of(file: Path, metadata: GGUFReader) -> PreTokenizer:
    kind, name = (
        metadata.fields[key].contents() if key in metadata.fields else "none"
        for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre")
    )
    if kind != "gpt2" or name not in SPLITS:
        known = ", ".join(f"gpt2/{each}" for each in SPLITS)
        raise StartupError(f"{file} has a tokenizer of kind {kind}/{name}; known here: {known}")
    return SPLITS[name]()


def _end_tokens(metadata: GGUFReader) -> list[int]:
    found = [metadata.fields[key].contents() for key in END_TOKENS if key in metadata.fields]
    return list(dict.fromkeys(found))
