"""Reads what a folder says of the tokens that its model knows, and refuses what is not whole.

A draft with a vocabulary of its own says so in its configuration, and has the target's ids in a file beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ...core.errors import ModelRefused
from .checkpoint import read_json
from .formats import CONFIG, DRAFT_VOCABULARY
from .known_tokens import KnownTokens

MAP = "draft_vocab.safetensors"
TENSOR = "token_ids"
ANEW = "make the draft anew, or copy it anew"


def read_known_tokens(folder: Path, tokenizer_size: int, rows: int) -> KnownTokens | None:
    """What a folder says of the tokens that its model of so many rows knows; None where it knows them all.

    Raises ModelRefused where what it says is not whole, or is of another tokenizer or model.
    """
    entry = read_json(folder / CONFIG).get(DRAFT_VOCABULARY)
    if entry is None:
        if (folder / MAP).is_file():
            raise _refused(folder, f"it holds {MAP}, and its {CONFIG} has no {DRAFT_VOCABULARY}")
        return None
    _check_entry(folder, entry, tokenizer_size, rows)
    token_ids = _read_map(folder, rows - 1)
    _check_order(folder, token_ids, tokenizer_size)
    return KnownTokens(token_ids.to(torch.int64), tokenizer_size)


def _check_entry(folder: Path, entry: Any, tokenizer_size: int, rows: int) -> None:
    said = entry if isinstance(entry, dict) else {}
    target_size, unknown = said.get("target_vocab_size"), said.get("unknown")
    if type(target_size) is not int or type(unknown) is not int:
        raise _refused(
            folder,
            f"{DRAFT_VOCABULARY} in its {CONFIG} lacks target_vocab_size or unknown as a whole number",
        )
    if target_size != tokenizer_size:
        raise _refused(
            folder,
            f"its {DRAFT_VOCABULARY} is of a target with {target_size:,} token ids, and its tokenizer.json "
            f"has {tokenizer_size:,}",
            "copy the tokenizer files of the target that it was made for",
        )
    if unknown != rows - 1 or rows < 2:
        raise _refused(
            folder,
            f"its {DRAFT_VOCABULARY} names {unknown:,} as its own id for unknown tokens, which must be the "
            f"last of its vocab_size of {rows:,}, after those of known ones",
        )


def _read_map(folder: Path, count: int) -> torch.Tensor:
    """The target's ids: int32 [count], as the file has them."""
    path = folder / MAP
    if not path.is_file():
        raise _refused(
            folder,
            f"it lacks {MAP}, without which its {DRAFT_VOCABULARY} has no meaning",
            "copy it there",
        )
    try:
        with safe_open(path, framework="pt") as file:
            names = tuple(file.keys())
            token_ids: torch.Tensor | None = (
                file.get_tensor(TENSOR).clone() if names == (TENSOR,) else None
            )
    except (SafetensorError, OSError) as error:
        raise _refused(folder, f"{MAP} is damaged or cut off") from error
    if token_ids is None:
        raise _refused(
            folder, f"{MAP} must hold one tensor, {TENSOR}, and holds {', '.join(names) or 'none'}"
        )
    if token_ids.dtype != torch.int32 or token_ids.shape != (count,):
        held = f"{str(token_ids.dtype).removeprefix('torch.')} {list(token_ids.shape)}"
        raise _refused(
            folder,
            f"{TENSOR} in {MAP} is {held}, and must be int32 [{count}]: one id for each row of the model's "
            f"vocab_size of {count + 1:,} but the last",
        )
    return token_ids


def _check_order(folder: Path, token_ids: torch.Tensor, target_size: int) -> None:
    smallest, largest = int(token_ids.min()), int(token_ids.max())
    if smallest < 0 or largest >= target_size:
        wrong = smallest if smallest < 0 else largest
        raise _refused(
            folder,
            f"{TENSOR} in {MAP} names token id {wrong}, and its target has 0 to {target_size - 1}",
        )
    falls = (token_ids[1:] <= token_ids[:-1]).nonzero()
    if len(falls):
        at = int(falls[0])
        raise _refused(
            folder,
            f"{TENSOR} in {MAP} must ascend, and has {int(token_ids[at + 1])} after {int(token_ids[at])}",
        )


def _refused(folder: Path, why: str, what_to_do: str = ANEW) -> ModelRefused:
    return ModelRefused(f"model folder {folder} cannot be served: {why}; {what_to_do}")
