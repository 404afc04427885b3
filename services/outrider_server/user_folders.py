"""The folders of the user who runs this, as the XDG variables say."""

from __future__ import annotations

import os
from pathlib import Path

from .core.errors import StartupError


def data_folder() -> Path:
    """Where what must last is kept. Raises StartupError for a user without a home."""
    return _folder("XDG_DATA_HOME", ".local/share")


def cache_folder() -> Path:
    """Where what can be made anew is kept between starts. Raises StartupError for a user without a home."""
    return _folder("XDG_CACHE_HOME", ".cache")


def with_home(argument: str) -> str:
    """A command's argument with the home folder in place of ~, which shells leave in --model=~/large."""
    option, equals, value = argument.partition("=")
    if not equals or not option.startswith("--"):
        return os.path.expanduser(argument)
    return option + equals + os.path.expanduser(value)


def _folder(variable: str, below_home: str) -> Path:
    if base := os.environ.get(variable):
        return Path(base).expanduser() / "outrider"
    try:
        return Path.home() / below_home / "outrider"
    except RuntimeError as error:
        raise StartupError(f"this user has no home folder: set HOME or {variable}") from error
