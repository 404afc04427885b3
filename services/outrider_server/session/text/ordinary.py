"""Text as ordinary tokens: what users write, in which no control token is recognised.

Owns how a stretch of text is encoded by where it stands. Tokenizers of the SentencePiece kind put a
space in front of a text; that belongs to a text that begins, not to one that goes on with what a
session holds.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from typing import Any

import tokenizers

from .encoding import encode


class Boundary(enum.Enum):
    """Where a stretch of text stands."""

    FIRST = "first"
    """It begins a session."""
    INNER = "inner"
    """It follows a control token of its own text."""
    LATER = "later"
    """It goes on with what the session holds: nothing is put in front of it."""


class OrdinaryText:
    """Encodes text with everything that the tokenizer does, but for its control tokens."""

    def __init__(self, raw: tokenizers.Tokenizer, control: Mapping[int, str]) -> None:
        """`control` has the text of each control token."""
        self._control = control
        self._encoders = {boundary: _encoder(raw, control, boundary) for boundary in Boundary}
        self._words_are_marked = _marks_words(_state(raw.pre_tokenizer))

    def encode(self, text: str, boundary: Boundary) -> list[int]:
        """The tokens of a stretch, none of which is a control token that stands for its own text."""
        if boundary is Boundary.LATER and self._words_are_marked:
            # The mark before a word is the white space that stood there, but not before the first.
            head = text[
                : next((at for at, letter in enumerate(text) if letter.isspace()), len(text))
            ]
            return self._encode(head, boundary) + self._encode(text[len(head) :], Boundary.INNER)
        return self._encode(text, boundary)

    def _encode(self, text: str, boundary: Boundary) -> list[int]:
        encoding = encode(self._encoders[boundary], text)
        ids: list[int] = encoding.ids
        if self._control.keys().isdisjoint(ids):
            return ids
        tokens: list[int] = []
        for token, (start, end) in zip(ids, encoding.offsets, strict=True):
            if token in self._control and self._control[token] in text[start:end]:
                tokens += self._letters(text[start:end])
            else:
                tokens.append(token)
        return tokens

    def _letters(self, text: str) -> list[int]:
        """For a control token's text that the vocabulary holds as a word too."""
        encoder = self._encoders[Boundary.LATER]
        tokens: list[int] = []
        for letter in text:
            ids = encode(encoder, letter).ids
            tokens += [token for token in ids if self._control.get(token) != letter]
        return tokens


def _encoder(
    raw: tokenizers.Tokenizer, control: Mapping[int, str], boundary: Boundary
) -> tokenizers.Tokenizer:
    """A tokenizer over the same model that knows no control token and begins at a boundary."""
    encoder = tokenizers.Tokenizer(raw.model)
    parts = _parts(_at(_state(raw.normalizer), boundary), _at(_state(raw.pre_tokenizer), boundary))
    if parts.normalizer is not None:
        encoder.normalizer = parts.normalizer
    if parts.pre_tokenizer is not None:
        encoder.pre_tokenizer = parts.pre_tokenizer
    added = sorted(raw.get_added_tokens_decoder().items())  # in this order they get the same ids
    for token, what in added:
        what.special = token in control
    encoder.add_tokens([what for _, what in added])
    encoder.encode_special_tokens = True  # as ordinary text
    return encoder


def _state(part: Any) -> Any:
    return None if part is None else json.loads(part.__getstate__())


def _parts(normalizer: Any, pre_tokenizer: Any) -> tokenizers.Tokenizer:
    """A tokenizer of nothing but these parts, which are in the form of its file."""
    model = {"type": "WordLevel", "vocab": {}, "unk_token": ""}
    state = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": None,
        "model": model,
    }
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def _at(part: Any, boundary: Boundary) -> Any:
    """A normalizer or pre-tokenizer as it works at a boundary: what it puts in front, or takes away
    there, it does where a text begins."""
    if part is None or boundary is Boundary.FIRST:
        return part
    later = boundary is Boundary.LATER
    match part["type"]:
        case "Sequence":
            name = "normalizers" if "normalizers" in part else "pretokenizers"
            inside = (_at(entry, boundary) for entry in part[name])
            return part | {name: [entry for entry in inside if entry is not None]}
        case "Metaspace" if later or part["prepend_scheme"] == "first":
            return part | {"prepend_scheme": "never"}
        case "Prepend" if later:
            return None
        case "ByteLevel" if later and "add_prefix_space" in part:
            return part | {"add_prefix_space": False}
        case "Strip" if later:
            return part | {"strip_left": False}
    return part


def _marks_words(pre_tokenizer: Any) -> bool:
    """True where text is cut into words first, each of which then gets something in front."""
    if pre_tokenizer is None or pre_tokenizer["type"] != "Sequence":
        return False
    return any(_at(part, Boundary.LATER) != part for part in pre_tokenizer["pretokenizers"][1:])
