"""What peers read of a model: a GGUF file, or a folder; each is made where the model is the other one."""

from __future__ import annotations

from pathlib import Path

from outrider_server.engine.model.formats import is_gguf, model_name

from .model_cache import kept

LINK = "model.gguf"


def library_folder(model: Path, cache: Path) -> Path:
    """The model as the library reads it: of a GGUF file a folder with weights in bf16, made once."""
    if not is_gguf(model):
        return model
    from .from_gguf import write_folder  # imports torch and the library

    made = {"folder": "bfloat16"}
    return kept(cache, model_name(model), model, made, lambda folder: write_folder(model, folder))


def packed_file(model: Path, cache: Path, layers: str, others: str = "BF16") -> Path:
    """The model as a GGUF file: the very file where it is one, else made once of tensors of these types."""
    if is_gguf(model):
        return model
    from .gguf_file import GgufTypes, gguf_of  # the package gguf, which nothing else needs

    return gguf_of(model, cache, GgufTypes(layers, others))


def own_place(file: Path, cache: Path) -> Path:
    """A link to a GGUF file in a folder of its own, for a peer that writes beside what it reads."""
    folder = kept(
        cache, f"{model_name(file)}-link", file, {}, lambda made: _link(made / LINK, file)
    )
    return folder / LINK


def _link(link: Path, file: Path) -> None:
    link.symlink_to(file.resolve())
