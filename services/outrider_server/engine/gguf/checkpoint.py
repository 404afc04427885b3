"""GGUF files as a checkpoint: see `model.checkpoint`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.description import TokenizerFiles
from ...core.errors import ModelRefused
from .blocks import READ
from .configurations import read_configuration
from .files import GgufFiles, open_files
from .metadata import Metadata
from .tokenizer import GgufTokenizer
from .weights import GgufWeights

SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "penalty_repeat",
}
"""What a file calls sampling parameters."""


@dataclass(frozen=True, slots=True)
class GgufCheckpoint:
    """See `Checkpoint`."""

    files: GgufFiles

    @property
    def source(self) -> Path:
        """See `Checkpoint`."""
        return self.files.path

    @property
    def weights(self) -> tuple[Path, ...]:
        """See `Checkpoint`."""
        return self.files.paths

    @property
    def written_config(self) -> bytes:
        """See `Checkpoint`."""
        return self.files.written

    def config(self) -> dict[str, Any]:
        """See `Checkpoint`."""
        ends = GgufTokenizer(Metadata(self.source, self.files.metadata)).ends()
        return read_configuration(self.files) | {"eos_token_id": list(ends) or None}

    def tokenizer(self) -> TokenizerFiles:
        """See `Checkpoint`."""
        return GgufTokenizer(Metadata(self.source, self.files.metadata)).files()

    def known_tokens(self, tokenizer_size: int, rows: int) -> None:
        """See `Checkpoint`: these files know all tokens."""
        del tokenizer_size, rows

    def generation_defaults(self) -> dict[str, float]:
        """See `Checkpoint`."""
        said = {
            name: self.files.metadata.get(f"general.sampling.{key}")
            for name, key in SAMPLING.items()
        }
        return {
            name: value
            for name, value in said.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }

    def small_parts(self) -> Iterator[tuple[str, bytes]]:
        """See `Checkpoint`."""
        yield "headers", self.files.written

    def open_weights(self) -> GgufWeights:
        """See `Checkpoint`."""
        return GgufWeights(self.files)


def open_gguf(path: Path) -> GgufCheckpoint:
    """The model of a file, or of all that it was split into. Raises ModelRefused with the reason."""
    files = open_files(path)
    for tensor in files.tensors.values():
        if tensor.kind not in READ:
            raise ModelRefused(
                f"{path} cannot be loaded: its tensor {tensor.name} is of type {tensor.kind.name}, which is "
                "not read"
            )
    return GgufCheckpoint(files)
