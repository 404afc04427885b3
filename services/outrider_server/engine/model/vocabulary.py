"""A tokenizer's file as what it does: which text each id stands for, and how text falls into ids.

Two files that do the same have one fingerprint, however they were written. What a service adds to texts or
shows of them (templates, padding, truncation, decoding, which tokens are special) is no part of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from ...core.errors import ModelRefused
from .known_tokens import KnownTokens

WHAT_ENCODES = ("added_tokens", "normalizer", "pre_tokenizer", "model")
TABLES = frozenset({"vocab", "merges"})
WITHOUT_EFFECT = frozenset({"special", "trim_offsets"})
"""Settings that change no id."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Ids and what they stand for."""

    fingerprint: str
    """Hex SHA-256, the same for tokenizers that do the same."""
    tokenizer_size: int
    """One more than the tokenizer's largest id."""
    output_rows: int
    """Ids for which the model has a logit; the rows of many reach beyond their tokenizer."""
    known: KnownTokens | None = None
    """What a draft with a vocabulary of its own knows of these ids; None for a model whose rows they are."""

    @property
    def size(self) -> int:
        """Ids from 0 on that may be sent: those of tokenizer and model both, or of a draft's target."""
        return self.drawn_rows if self.known is None else self.known.target_size

    @property
    def drawn_rows(self) -> int:
        """Logits of the model, from its first on, that are drawn from: no other is looked at."""
        if self.known is not None:
            return self.known.count
        return min(self.tokenizer_size, self.output_rows)

    def known_token(self, number: int) -> int:
        """An id that the model knows: another one for each of many numbers in a row."""
        if self.known is None:
            return number % self.size
        return int(self.known.token_ids[number % self.known.count])

    @property
    def is_cut(self) -> bool:
        """True where the model has logits that are never drawn."""
        return self.drawn_rows < self.output_rows


def read_vocabulary(tokenizer_json: bytes, output_rows: int) -> Vocabulary:
    """What the tokenizer does. Raises ModelRefused where the file cannot be read or has no token."""
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json.decode())
    except Exception as error:  # the library raises nothing narrower
        raise ModelRefused("its tokenizer.json cannot be read; copy it anew") from error
    ids = tokenizer.get_vocab(with_added_tokens=True).values()
    if not ids:
        raise ModelRefused("its tokenizer.json has no token; use another one")
    written = json.loads(tokenizer.to_str())  # as the library's own version writes it
    parts = {part: _plain(written[part]) for part in WHAT_ENCODES}
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    fingerprint = hashlib.sha256(canonical.encode()).hexdigest()
    return Vocabulary(fingerprint, max(ids) + 1, output_rows)


def _plain(part: Any) -> Any:
    """A part without the settings that are off or change no id."""
    if isinstance(part, list):
        return [_plain(entry) for entry in part]
    if not isinstance(part, dict):
        return part
    return {
        name: value if name in TABLES else _plain(value)
        for name, value in part.items()
        if name not in WITHOUT_EFFECT and value is not None and value is not False and value != ""
    }
