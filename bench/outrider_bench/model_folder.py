"""Whether a folder may hold a model, asked before any work is done."""

from __future__ import annotations

from pathlib import Path

from outrider_server.core.errors import StartupError


def check_model_folder(folder: Path) -> None:
    """Raises StartupError for a folder without a configuration."""
    if not (folder / "config.json").is_file():
        raise StartupError(f"model folder {folder} does not exist or has no config.json")
