"""Models that the benchmark makes of other models: kept on disk by what they were made of.

Knows nothing of how they are made. A folder is written under another name first: no half of one ever stays.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from outrider_server import user_folders
from outrider_server.core.errors import StartupError
from outrider_server.engine.model.formats import is_gguf

if TYPE_CHECKING:
    from outrider_server.engine.model.checkpoint import Checkpoint

RECIPE = "1"
"""Part of the key: grows when the same source and settings would give other files."""

_OTHER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
)


def cache_folder() -> Path:
    """Where made models are kept: `$XDG_CACHE_HOME/outrider/bench`, or below `~/.cache`."""
    return user_folders.cache_folder() / "bench"


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json. Raises StartupError where there is none."""
    try:
        content = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise StartupError(f"model folder {folder} has no readable config.json") from error
    if not isinstance(content, dict):
        raise StartupError(f"{folder / 'config.json'} does not hold a JSON object")
    return content


def end_tokens(model: Path) -> list[int]:
    """The tokens that end a model's reply: in a folder its generation's, else its configuration's."""
    if is_gguf(model):
        return _opened(model).config()["eos_token_id"] or []
    for name in ("generation_config.json", "config.json"):
        path = model / name
        found = json.loads(path.read_bytes()).get("eos_token_id") if path.is_file() else None
        if found is not None:
            return found if isinstance(found, list) else [found]
    return []


def kept(
    cache: Path, name: str, source: Path, settings: dict[str, Any], make: Callable[[Path], object]
) -> Path:
    """The folder that `make` fills, beside the tokenizer's files of `source` where that is a folder.

    Made once for its settings and what the source holds.
    """
    digest = hashlib.sha256(json.dumps([RECIPE, settings], sort_keys=True).encode())
    for path in _files_of(source):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    final = cache / digest.hexdigest()[:16] / name
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent) as scratch:
        made = Path(scratch) / name
        made.mkdir()
        make(made)
        for other in _OTHER_FILES:
            if (source / other).is_file():
                shutil.copy(source / other, made / other)
        made.rename(final)
    return final


def _files_of(source: Path) -> list[Path]:
    """What a folder or GGUF file has of configuration and weights."""
    if is_gguf(source):
        return list(_opened(source).weights)
    return sorted([source / "config.json", *source.glob("*.safetensors")])


def _opened(model: Path) -> Checkpoint:
    """A model's files."""
    from outrider_server.engine.model.opening import open_checkpoint  # imports torch

    return open_checkpoint(model)
