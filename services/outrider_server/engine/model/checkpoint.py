"""A model's files: what they are asked for, whatever they are, and what identifies them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, Protocol

from ...core.description import TokenizerFiles
from ...core.errors import ModelRefused
from .known_tokens import KnownTokens
from .vocabulary import Vocabulary
from .weight_files import Weights

SAMPLE_BYTES = 1 << 16
SAMPLES = 64


class _Digest(Protocol):
    """What hashes take."""

    def update(self, data: bytes, /) -> None: ...


class Checkpoint(Protocol):
    """A model that may be loaded: a folder with safetensors, or GGUF files."""

    @property
    def source(self) -> Path:
        """The folder, or the file that was named."""

    @property
    def weights(self) -> tuple[Path, ...]:
        """The files that hold the weights, by name."""

    @property
    def written_config(self) -> bytes:
        """The configuration as it stands in the files."""

    def config(self) -> dict[str, Any]:
        """The configuration as a config.json has it. Raises ModelRefused."""

    def tokenizer(self) -> TokenizerFiles:
        """The tokenizer and the chat template. Raises ModelRefused."""

    def known_tokens(self, tokenizer_size: int, rows: int) -> KnownTokens | None:
        """What a draft with a vocabulary of its own knows; None for other models.

        `tokenizer_size` is one more than the tokenizer's largest id, `rows` the model's. Raises ModelRefused.
        """

    def generation_defaults(self) -> dict[str, float]:
        """How tokens would be drawn, by the names of `SamplingParams`. Raises ModelRefused."""

    def small_parts(self) -> Iterator[tuple[str, bytes]]:
        """All but the weights on which loading depends, by name."""

    def open_weights(self) -> Weights:
        """The weights, over the files' own pages."""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Raises ModelRefused."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelRefused(f"{path} is not valid JSON") from error
    if not isinstance(content, dict):
        raise ModelRefused(f"{path} does not hold a JSON object")
    return content


def check_amount(checkpoint: Checkpoint, values: int) -> None:
    """Refuses a folder that holds less than half of a model's `values`, before there is room made for them.

    What lacks less is refused by the names of the weights, once they are loaded.
    """
    weights = checkpoint.open_weights()
    stored = sum(prod(weights.shape(name)) for name in weights.names)
    if 2 * stored < values:
        raise ModelRefused(
            f"model folder {checkpoint.source} lacks weights: its files hold {stored:,} values, the model of "
            f"config.json has {values:,}; copy it anew"
        )


def digest_files(checkpoint: Checkpoint) -> str:
    """Hex BLAKE2b over what loading depends on: small files, and samples and times of the weights.

    A weight file that was written anew counts as another, wherever its samples are.
    """
    digest = hashlib.blake2b(digest_size=32)
    for name, content in checkpoint.small_parts():
        digest.update(f"{name} {len(content)} ".encode())
        digest.update(content)
    for path in checkpoint.weights:
        digest.update(f"{path.name} {path.stat().st_mtime_ns} ".encode())
        _add_samples(digest, path)
    return digest.hexdigest()


def fingerprint_model(
    checkpoint: Checkpoint, quantization: str, vocabulary: Vocabulary, other_dtype: str = ""
) -> str:
    """Hex SHA-256 over the configuration, samples of every weight file, the quantization, and the draw.

    Sampling keeps the start of a service independent of the model's size; a file of up to 4 MiB is read
    whole. Quantized while loading, or in another dtype than its own, a checkpoint is another model: its
    weights are others. So is one whose tokenizer leaves other logits out of the draw, or whose rows stand for
    other tokens.
    """
    digest = hashlib.sha256(checkpoint.written_config)
    for path in checkpoint.weights:
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        _add_samples(digest, path)
    digest.update(quantization.encode())
    if vocabulary.is_cut:
        digest.update(f" {vocabulary.size} ids".encode())
    if vocabulary.known is not None:
        digest.update(vocabulary.known.token_ids.numpy().tobytes())
    digest.update(other_dtype.encode())
    return digest.hexdigest()


def _add_samples(digest: _Digest, path: Path) -> None:
    size = path.stat().st_size
    stride = max(SAMPLE_BYTES, size // SAMPLES)
    with path.open("rb") as file:
        for offset in range(0, size, stride):
            file.seek(offset)
            digest.update(file.read(SAMPLE_BYTES))
