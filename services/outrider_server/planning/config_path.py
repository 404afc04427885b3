"""Where a model's configuration is: a first look at what was named, which imports no library."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import ModelRefused
from ..engine.model.formats import check_format

NAME = "config.json"


def config_path(source: Path) -> Path:
    """The configuration in a folder, or the file itself; it may be GGUF. Raises ModelRefused for none."""
    path = source / NAME if source.is_dir() else source
    if not source.exists():
        raise ModelRefused(
            f"{source} does not exist; name a model's folder, its config.json, or a GGUF file"
        )
    if path.suffix != ".json" or source.is_dir():
        check_format(source)
    if not path.is_file():
        raise ModelRefused(f"model folder {source} has no config.json")
    return path
