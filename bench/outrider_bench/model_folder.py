"""Whether a folder or a file may hold a model, asked before any work is done."""

from __future__ import annotations

from pathlib import Path

from outrider_server.core.errors import StartupError
from outrider_server.engine.model.formats import check_format, is_gguf


def check_model_folder(folder: Path) -> None:
    """Raises StartupError for a folder without a configuration."""
    if not (folder / "config.json").is_file():
        raise StartupError(f"model folder {folder} does not exist or has no config.json")


def check_model(model: Path) -> None:
    """Raises StartupError for what is neither a folder with a configuration nor a GGUF file."""
    if is_gguf(model):
        check_format(model)
    else:
        check_model_folder(model)
