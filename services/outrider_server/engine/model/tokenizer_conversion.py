"""Tokenizers of other files than `tokenizer.json`, as the library converts them.

A SentencePiece model says itself how it splits: it is converted without the defaults of the library's
classes, and compared with SentencePiece on a few texts. A vocabulary with merges does not say it: the class
does that the folder names, or that of its model type.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, TokenizersBackend

from ...core.errors import ModelRefused
from .checkpoint import read_json

SENTENCEPIECE = "tokenizer.model"
VOCABULARY, MERGES = "vocab.json", "merges.txt"
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
SAMPLES = (
    "The quick brown fox; it's 12,345.67!",
    "def f(x):\n    return  x\n\n\ty = 'z'\n",
    " two  spaces ",
    "Größe, naïve ﬁne ①, Привет, 你好, こんにちは, 🙂",
)
WRITE_ONE = "write its tokenizer.json with the library that the model was made with"


def convert_tokenizer(folder: Path, settings: dict[str, Any]) -> bytes:
    """The tokenizer.json of a folder that has none, given what the files beside say. Raises ModelRefused."""
    has_words = (folder / VOCABULARY).is_file() and (folder / MERGES).is_file()
    has_pieces = (folder / SENTENCEPIECE).is_file()
    if not has_words and not has_pieces:
        raise ModelRefused(
            f"model folder {folder} has no tokenizer.json, nor {SENTENCEPIECE}, nor {VOCABULARY} with "
            f"{MERGES}; copy the tokenizer's files there"
        )
    if "AutoTokenizer" in (settings.get("auto_map") or ()):
        raise ModelRefused(
            f"model folder {folder} has no tokenizer.json, and its tokenizer wants to run code of its own "
            f"(auto_map in tokenizer_config.json); {WRITE_ONE}"
        )
    return _from_pieces(folder, settings) if has_pieces else _from_words(folder, settings)


def _from_words(folder: Path, settings: dict[str, Any]) -> bytes:
    try:
        converted = AutoTokenizer.from_pretrained(folder, **LOCAL).backend_tokenizer
    except Exception as error:
        kind = settings.get("tokenizer_class") or read_json(folder / "config.json").get(
            "model_type"
        )
        raise ModelRefused(
            f"model folder {folder} has no tokenizer.json, and transformers cannot tell from {VOCABULARY} "
            f"and {MERGES} how a {kind} tokenizer splits text; {WRITE_ONE}"
        ) from error
    content = json.loads(converted.to_str())
    known = read_json(folder / VOCABULARY)  # a class may add tokens of its own
    content["added_tokens"] = [
        token for token in content["added_tokens"] if known.get(token["content"]) == token["id"]
    ]
    return json.dumps(content, ensure_ascii=False).encode()


def _from_pieces(folder: Path, settings: dict[str, Any]) -> bytes:
    path = folder / SENTENCEPIECE
    if importlib.util.find_spec("sentencepiece") is None:
        raise ModelRefused(
            f"model folder {folder} has its tokenizer as {SENTENCEPIECE} only, which needs the package "
            "sentencepiece: pip install 'outrider[sentencepiece]'"
        )
    from sentencepiece import SentencePieceProcessor

    try:
        pieces = SentencePieceProcessor(model_file=str(path))
        begin = pieces.id_to_piece(pieces.bos_id()) if pieces.bos_id() >= 0 else None
        begins = bool(begin) and settings.get("add_bos_token") is not False
        own: dict[str, Any] = {} if settings.get("bos_token") else {"bos_token": begin}
        converted = TokenizersBackend.from_pretrained(
            folder, add_bos_token=begins, add_eos_token=False, **own, **LOCAL
        ).backend_tokenizer
        alike = all(
            converted.encode(text, add_special_tokens=False).ids == pieces.encode(text)
            for text in SAMPLES
        )
    except Exception as error:
        raise ModelRefused(
            f"model folder {folder} has a {SENTENCEPIECE} that cannot be read; copy it anew"
        ) from error
    if not alike:
        raise ModelRefused(
            f"model folder {folder} has a {SENTENCEPIECE} whose conversion by transformers splits text "
            f"otherwise; {WRITE_ONE}"
        )
    text: str = converted.to_str()
    return text.encode()
