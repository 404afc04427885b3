"""Opens what was named as a model."""

from __future__ import annotations

from pathlib import Path

from .checkpoint import Checkpoint
from .folder import open_folder
from .formats import check_format, is_gguf


def open_checkpoint(source: Path) -> Checkpoint:
    """Checks a folder or a GGUF file before the library sees it. Raises ModelRefused with the reason."""
    check_format(source)
    if not is_gguf(source):
        return open_folder(source)
    from ..gguf.checkpoint import open_gguf  # imports a library that folders do not need

    return open_gguf(source)
