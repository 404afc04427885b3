"""A model's folder as a checkpoint: what it must hold, and what it must not.

Reads JSON and the headers of weight files. Nothing in a folder is executed: safetensors only, no code of the
folder's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ...core.description import TokenizerFiles
from ...core.errors import ModelRefused
from .checkpoint import read_json
from .formats import CONFIG
from .generation_defaults import read_generation_defaults
from .known_tokens import KnownTokens
from .known_tokens_file import MAP, read_known_tokens
from .tokenizer_files import read_tokenizer
from .weight_files import WeightFiles

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
QUANTIZED = "quantization_config"
METHOD = "quant_method"
LIBRARY_KEYS = ("load_in_8bit", "load_in_4bit")
"""How older files of bitsandbytes name their method."""
SMALL_SUFFIXES = (".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True, slots=True)
class FolderCheckpoint:
    """See `Checkpoint`."""

    source: Path
    written_config: bytes
    weights: tuple[Path, ...]

    def config(self) -> dict[str, Any]:
        """See `Checkpoint`."""
        return read_json(self.source / CONFIG)

    def tokenizer(self) -> TokenizerFiles:
        """See `Checkpoint`."""
        return read_tokenizer(self.source)

    def known_tokens(self, tokenizer_size: int, rows: int) -> KnownTokens | None:
        """See `Checkpoint`."""
        return read_known_tokens(self.source, tokenizer_size, rows)

    def generation_defaults(self) -> dict[str, float]:
        """See `Checkpoint`."""
        return read_generation_defaults(self.source)

    def small_parts(self) -> Iterator[tuple[str, bytes]]:
        """See `Checkpoint`."""
        for path in sorted(self.source.iterdir()):
            if (path.suffix in SMALL_SUFFIXES or path.name == MAP) and path.is_file():
                yield path.name, path.read_bytes()

    def open_weights(self) -> WeightFiles:
        """See `Checkpoint`."""
        return WeightFiles(self.weights)


def open_folder(folder: Path) -> FolderCheckpoint:
    """Checks a folder before the library sees it. Raises ModelRefused with the reason."""
    config_path = folder / CONFIG
    if not config_path.is_file():
        raise ModelRefused(f"model folder {folder} has no {CONFIG}")
    _check_quantization(folder, read_json(config_path))
    weights = _find_weights(folder)
    for path in weights:
        _check_weights(folder, path)
    return FolderCheckpoint(folder, config_path.read_bytes(), weights)


def _check_quantization(folder: Path, config: dict[str, Any]) -> None:
    """What the library takes for granted of an entry that says how the weights are quantized."""
    entry = config.get(QUANTIZED)
    if entry is None:
        return
    of_library = isinstance(entry, dict) and any(entry.get(key) for key in LIBRARY_KEYS)
    if not of_library and not (isinstance(entry, dict) and isinstance(entry.get(METHOD), str)):
        raise ModelRefused(
            f"model folder {folder}: {QUANTIZED} in {CONFIG} must be an object with a {METHOD}, such as "
            '"gptq"; correct it, or leave it out where the weights are not quantized'
        )


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
