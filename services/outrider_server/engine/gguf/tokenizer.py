"""The tokenizer of a GGUF file as a tokenizer.json, whose tokens are llama.cpp's.

Two kinds are read: bytes that merge by rank ("gpt2"), and characters that merge by the score of what they
become ("llama", SentencePiece's). The library's reader splits text otherwise for many files, knows fewer of
their control tokens, and takes seconds to be imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...core.description import TokenizerFiles
from ...core.errors import ModelRefused
from .end_tokens import CONTROL_TEXTS, ENDS, ends_of
from .metadata import Metadata
from .splits import SPLITS, Split

BYTES, PIECES = "gpt2", "llama"
KINDS = (BYTES, PIECES)
KIND = "tokenizer.ggml.model"
NORMAL, UNKNOWN, CONTROL, ADDED, UNUSED, BYTE = range(1, 7)
"""Types of tokens."""
SPACE = "▁"
PIECE_ROLES = {"unknown": 0, "bos": 1, "eos": 2}
"""Tokens of SentencePiece where a file does not name them."""
TEMPLATE = "tokenizer.chat_template"
TOOL_TEMPLATE = f"{TEMPLATE}.tool_use"
TRIMMED = "phi-3", "phi3"
"""Models of such names take away white space behind a control token."""
NOT_TRIMMED = frozenset({"<unk>", "<s>", "<|endoftext|>"})

Part = dict[str, Any]


class GgufTokenizer:
    """What a file says of its tokens."""

    def __init__(self, says: Metadata) -> None:
        """Raises ModelRefused for a file without a tokenizer, or with one that is not read."""
        self._says = says
        if KIND not in says.values:
            raise ModelRefused(
                f"{says.path} cannot be served: it holds no tokenizer; take a file that does"
            )
        self.kind = says.get(KIND, str)
        if self.kind not in KINDS:
            raise ModelRefused(
                f"{says.path} cannot be served: its tokenizer is of the kind {self.kind!r:.80}, and "
                f"{' and '.join(KINDS)} are read"
            )
        self.tokens = self._texts()
        self._types = self._listed("token_type", int) or (NORMAL,) * len(self.tokens)
        self._split = self._named_split()
        self.ids = {token: number for number, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens):
            self._refuse("names a token twice")

    def files(self) -> TokenizerFiles:
        """The tokenizer and its chat template. Raises ModelRefused."""
        template = self._says.get(TEMPLATE, str, "")
        begin, end, pad, unknown = (
            self._text(name) for name in ("bos", "eos", "padding", "unknown")
        )
        return TokenizerFiles(
            tokenizer_json=json.dumps(self._content(), ensure_ascii=False).encode(),
            chat_template=template,
            tool_chat_template=self._says.get(TOOL_TEMPLATE, str, ""),
            begin_token=begin,
            end_token=end,
            pad_token=pad,
            unknown_token=unknown,
        )

    def ends(self) -> tuple[int, ...]:
        """The ids that end a turn."""
        named = {end: number for end in ENDS if (number := self._number(end)) is not None}
        return ends_of(self.ids, named)

    def _content(self) -> Part:
        """What stands in a tokenizer.json."""
        pieces = self.kind == PIECES
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": list(self._added()),
            "normalizer": self._spaces() if pieces else None,
            "pre_tokenizer": None if pieces else _splitting(self._split),
            "post_processor": self._beginning(),
            "decoder": self._piece_decoder() if pieces else _byte_level(),
            "model": self._merging_pieces() if pieces else self._merging_bytes(),
        }

    def _added(self) -> Iterator[Part]:
        """Tokens that text is searched for before anything else."""
        name = self._says.get("general.name", str, "").lower()
        trims = any(each in name for each in TRIMMED)
        for number, (text, kind) in enumerate(zip(self.tokens, self._types, strict=True)):
            special = kind in (UNKNOWN, CONTROL) or text in CONTROL_TEXTS
            if special or kind == ADDED:
                yield {
                    "id": number,
                    "content": text,
                    "single_word": False,
                    "lstrip": False,
                    "rstrip": trims and text not in NOT_TRIMMED,
                    "normalized": False,
                    "special": special,
                }

    def _merging_bytes(self) -> Part:
        merges = self._listed("merges", str)
        if merges is None:
            self._refuse("lists no merges")
        assert merges is not None
        pairs = (_halves(merge) for merge in merges)
        known = [pair for pair in pairs if self.ids.keys() >= {*pair, "".join(pair)}]
        return _merging(self.ids, known, ignore_merges=self._split.whole_words)

    def _merging_pieces(self) -> Part:
        scores = self._listed("scores", float)
        if scores is None:
            self._refuse("lists no scores")
        assert scores is not None
        pieces = {
            token: score
            for token, score, kind in zip(self.tokens, scores, self._types, strict=True)
            if kind in (NORMAL, UNUSED)
        }
        unknown = self._text("unknown") or None
        return _merging(self.ids, _merges_of(pieces), byte_fallback=True, unk_token=unknown)

    def _spaces(self) -> Part:
        """Spaces are written as a letter of their own, mostly with one in front."""
        replaced = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        parts = [{"type": "Prepend", "prepend": SPACE}] if self._puts_space() else []
        return {"type": "Sequence", "normalizers": [*parts, replaced]}

    def _piece_decoder(self) -> Part:
        replaced = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
        parts: list[Part] = [replaced, {"type": "ByteFallback"}, {"type": "Fuse"}]
        if self._puts_space():
            parts.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
        return {"type": "Sequence", "decoders": parts}

    def _puts_space(self) -> bool:
        return self._says.get("tokenizer.ggml.add_space_prefix", bool, True)

    def _beginning(self) -> Part | None:
        """Puts the begin token in front of a text."""
        begins = self.kind == PIECES or self._split.begins
        if not self._says.get("tokenizer.ggml.add_bos_token", bool, begins):
            return None
        begin = self._text("bos")
        if not begin:
            self._refuse("begins texts with a token that it does not name")
        front = [
            {"SpecialToken": {"id": begin, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ]
        return {
            "type": "TemplateProcessing",
            "single": front,
            "pair": [*front, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {begin: {"id": begin, "ids": [self.ids[begin]], "tokens": [begin]}},
        }

    def _text(self, role: str) -> str:
        """The text of the token with a role; empty where there is none."""
        number = self._number(role)
        return "" if number is None else self.tokens[number]

    def _number(self, role: str) -> int | None:
        default = PIECE_ROLES.get(role) if self.kind == PIECES else None
        number = self._says.values.get(f"tokenizer.ggml.{role}_token_id", default)
        return number if type(number) is int and 0 <= number < len(self.tokens) else None

    def _named_split(self) -> Split:
        if self.kind == PIECES:
            return Split(())
        name = self._says.get("tokenizer.ggml.pre", str, "")
        if name not in SPLITS:
            self._refuse(f"splits text as {name!r:.80}, which is not known here")
        return SPLITS[name]

    def _texts(self) -> tuple[str, ...]:
        listed = self._listed("tokens", str)
        if not listed:
            self._refuse("lists no tokens")
        assert listed is not None
        return tuple(text or f"[EMPTY_{number}]" for number, text in enumerate(listed))

    def _listed(self, name: str, kind: type) -> tuple[Any, ...] | None:
        """One of the tokenizer's lists; of its tokens' it has an entry for each."""
        listed = self._says.values.get(f"tokenizer.ggml.{name}")
        if listed is None:
            return None
        if not isinstance(listed, tuple) or not all(type(each) is kind for each in listed):
            self._refuse(f"has {name} of another kind")
        if name in ("scores", "token_type") and len(listed) != len(self.tokens):
            self._refuse(f"has {len(listed)} {name} for {len(self.tokens)} tokens")
        return tuple(listed)

    def _refuse(self, what: str) -> None:
        raise ModelRefused(f"{self._says.path} cannot be served: its tokenizer {what}")


def _splitting(split: Split) -> Part:
    parts: list[Part] = [
        {"type": "Split", "pattern": {"Regex": each}, "behavior": "Isolated", "invert": False}
        for each in split.expressions
    ]
    return {"type": "Sequence", "pretokenizers": [*parts, _byte_level()]}


def _byte_level() -> Part:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }


def _merging(ids: Mapping[str, int], merges: Sequence[tuple[str, str]], **settings: object) -> Part:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": ids,
        "merges": merges,
        **settings,
    }


def _halves(merge: str) -> tuple[str, str]:
    """A merge as it is written; its first half may begin with a space."""
    at = merge.find(" ", 1)
    return (merge[:at], merge[at + 1 :]) if at > 0 else ("", "")


def _merges_of(pieces: Mapping[str, float]) -> list[tuple[str, str]]:
    """All pairs of pieces that become a piece, those first whose piece has the largest score."""
    found = [
        (score, piece[:at], piece[at:])
        for piece, score in pieces.items()
        for at in range(1, len(piece))
        if piece[:at] in pieces and piece[at:] in pieces
    ]
    found.sort(key=lambda pair: -pair[0])
    return [(left, right) for _, left, right in found]
