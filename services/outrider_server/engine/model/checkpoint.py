"""A model's folder as files: what it must hold, what it must not, and what identifies it.

Reads JSON and the headers of weight files. Nothing in a folder is executed: safetensors only, no code of the
folder's own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open

from ...core.errors import ModelRefused
from .formats import check_format
from .vocabulary import Vocabulary

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SMALL_SUFFIXES = (".json", ".jinja", ".model", ".txt")
SAMPLE_BYTES = 1 << 16
SAMPLES = 64


class _Digest(Protocol):
    """What hashes take."""

    def update(self, data: bytes, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder that may be loaded."""

    folder: Path
    config_json: bytes
    weights: tuple[Path, ...]
    """The files that hold the weights, by name."""


def open_checkpoint(folder: Path) -> Checkpoint:
    """Checks a folder before the library sees it. Raises ModelRefused with the reason."""
    check_format(folder)
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelRefused(f"model folder {folder} has no config.json")
    weights = _find_weights(folder)
    for path in weights:
        _check_weights(folder, path)
    return Checkpoint(folder, config_path.read_bytes(), weights)


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


def _find_weights(folder: Path) -> tuple[Path, ...]:
    """The one file of weights, or those that the index names."""
    if (folder / WEIGHTS).is_file():
        return (folder / WEIGHTS,)
    if not (folder / INDEX).is_file():
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES)
        if pickles:
            raise ModelRefused(
                f"model folder {folder} has pickle weights only ({pickles[0]}); "
                "convert them to safetensors"
            )
        raise ModelRefused(f"model folder {folder} has no safetensors weights ({WEIGHTS})")
    places = read_json(folder / INDEX).get("weight_map")
    names = sorted(set(places.values()), key=str) if isinstance(places, dict) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise ModelRefused(f"{folder / INDEX} does not say which files hold the weights")
    for name in names:
        if not (folder / name).is_file():
            raise ModelRefused(f"model folder {folder} lacks {name}, which {INDEX} names")
    return tuple(folder / name for name in names)


def _check_weights(folder: Path, path: Path) -> None:
    """Reads a file's header, whose sizes must be those of the file."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelRefused(
            f"model folder {folder} cannot be loaded: {path.name} is damaged or cut off; "
            "copy it anew"
        ) from error


def check_amount(checkpoint: Checkpoint, values: int) -> None:
    """Refuses a folder that holds less than half of a model's `values`, before there is room made for them.

    What lacks less is refused by the names of the weights, once they are loaded.
    """
    stored = 0
    for path in checkpoint.weights:
        with safe_open(path, framework="pt") as file:
            stored += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    if 2 * stored < values:
        raise ModelRefused(
            f"model folder {checkpoint.folder} lacks weights: its files hold {stored:,} values, the model of "
            f"config.json has {values:,}; copy it anew"
        )


def digest_files(checkpoint: Checkpoint) -> str:
    """Hex BLAKE2b over what loading a folder depends on: small files, and samples and times of the weights.

    A weight file that was written anew counts as another, wherever its samples are.
    """
    digest = hashlib.blake2b(digest_size=32)
    for path in sorted(checkpoint.folder.iterdir()):
        if path.suffix in SMALL_SUFFIXES and path.is_file():
            content = path.read_bytes()
            digest.update(f"{path.name} {len(content)} ".encode())
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
    weights are others. So is one whose tokenizer leaves other logits out of the draw.
    """
    digest = hashlib.sha256(checkpoint.config_json)
    for path in checkpoint.weights:
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        _add_samples(digest, path)
    digest.update(quantization.encode())
    if vocabulary.is_cut:
        digest.update(f" {vocabulary.size} ids".encode())
    digest.update(other_dtype.encode())
    return digest.hexdigest()


def _add_samples(digest: _Digest, path: Path) -> None:
    size = path.stat().st_size
    stride = max(SAMPLE_BYTES, size // SAMPLES)
    with path.open("rb") as file:
        for offset in range(0, size, stride):
            file.seek(offset)
            digest.update(file.read(SAMPLE_BYTES))
