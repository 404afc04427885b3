"""Models by the name that a model hub knows them by: fetched once, then read from the local cache.

Owns what is fetched: weights in safetensors, configuration and tokenizer, never code or pickles.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ...core.errors import ModelRefused
from ...core.progress import Progress, Report, Stage, silent
from .formats import check_format, is_gguf

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""OWNER/NAME."""
WANTED_FILES = ["*.safetensors", "*.json", "*.jinja", "merges.txt", "tokenizer.model"]
UNWANTED_FILES = ["*/*.safetensors", "*/*.json", "consolidated*", "adapter_model*"]
"""Folders hold other formats of the same weights, which the library leaves alone, and chat templates."""
ETAG_SECONDS = 5.0


def is_name(model: Path) -> bool:
    """True for a name on a hub, False for what is a folder or could be one alone."""
    return (
        not model.exists()
        and not is_gguf(model)
        and HUB_NAME.fullmatch(model.as_posix()) is not None
    )


def check_named(model: Path, check: Callable[[Path], None] = check_format) -> None:
    """Raises ModelRefused for what can be no model, by a first look that imports and fetches nothing.

    `check` is `check_format` or, where it is to be a target, `check_target`.
    """
    if not is_name(model):
        check(model)


def local_folder(model: Path, tell: Progress = silent) -> Path:
    """The folder or file itself, else the hub's model of that name, fetched where it has to be.

    Raises ModelRefused when it is neither.
    """
    if not is_name(model):
        return model
    from huggingface_hub import snapshot_download

    name = model.as_posix()
    tell(Report(Stage.FETCHING))
    try:
        fetched = snapshot_download(
            name,
            allow_patterns=WANTED_FILES,
            ignore_patterns=UNWANTED_FILES,
            etag_timeout=ETAG_SECONDS,
            max_workers=2,
        )
    except Exception as error:
        raise ModelRefused(
            f"model {name} does not exist as a folder and cannot be fetched from the hub "
            f"({type(error).__name__}); name a local folder, or check name and network"
        ) from error
    return Path(fetched)
