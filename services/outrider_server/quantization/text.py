"""The text that models are measured on, as windows of tokens."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer

from ..core.errors import ModelRefused, StartupError
from ..models.training.corpus import load_corpus
from .settings import SMALLEST_TEXT_TOKENS, QuantizeSettings

WINDOW_TOKENS = 1024


@dataclass(frozen=True, slots=True)
class HeldOutText:
    """What was found, and where."""

    source: str
    """In words, for the report."""
    parts: tuple[torch.Tensor, ...]
    """Token ids of each file, [tokens] int64."""


def read_text(settings: QuantizeSettings) -> HeldOutText:
    """The text in the model's tokens. Raises StartupError for what cannot be read or is too short."""
    tokenizer = _tokenizer(settings.model)
    if settings.text is not None:
        source, texts = str(settings.text), [_read_file(settings.text)]
    else:
        files = load_corpus().held_out
        texts = [file.text for file in files]
        source = (
            f"{len(files)} files of the standard library of Python {platform.python_version()} "
            "that the bundled pair never trained on"
        )
    encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
    parts = tuple(torch.tensor(encoding.ids, dtype=torch.int64) for encoding in encoded)
    tokens = sum(len(part) for part in parts)
    if tokens < SMALLEST_TEXT_TOKENS:
        raise StartupError(
            f"the text ({source}) has {tokens} tokens; at least {SMALLEST_TEXT_TOKENS} are needed"
        )
    return HeldOutText(source, parts)


def cut_windows(text: HeldOutText, width: int, tokens: int) -> list[torch.Tensor]:
    """Windows of at most `width` tokens that do not overlap, of at most `tokens` tokens together.

    Where the text has more, the windows are spread evenly over it. A window never spans two files; one of a
    single token, which predicts nothing, is left out. There is at least one.
    """
    windows = [
        window for part in text.parts for window in torch.split(part, width) if len(window) >= 2
    ]
    total = sum(map(len, windows))
    count = max(1, min(len(windows), len(windows) * tokens // total))
    chosen = [windows[index * len(windows) // count] for index in range(count)]
    while len(chosen) > 1 and sum(map(len, chosen)) > tokens:
        chosen.pop()
    return chosen


def _tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelRefused(f"model folder {folder} has no tokenizer.json")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no narrower type
        raise ModelRefused(f"{path} cannot be read as a tokenizer") from error


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise StartupError(f"the text {path} is not UTF-8") from error
    except OSError as error:
        raise StartupError(f"the text {path} cannot be read: {error.strerror}") from error
