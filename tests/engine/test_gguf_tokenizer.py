"""The tokenizer of a GGUF file makes of a text what llama.cpp does.

The ids that are expected are those of llama.cpp's llama-server; see `gguf_cases.py`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter
from gguf_files import Form, Tokens, word_tokens, write_model
from models_for_tests import tiny_llama
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.gguf.files import open_files
from outrider_server.engine.gguf.metadata import Metadata
from outrider_server.engine.gguf.splits import SPLITS
from outrider_server.engine.gguf.tokenizer import GgufTokenizer
from outrider_server.session.text.ordinary import Boundary, OrdinaryText
from outrider_server.session.text.tokenizer import Tokenizer as SessionTokenizer
from tokenizers import Tokenizer

from .gguf_cases import EXPECTED, TEXTS, bytes_that_merge, cases, scored_pieces, write_case

MEASURED: dict[str, Any] = json.loads(EXPECTED.read_bytes())


def tokenizer_of(file: Path) -> GgufTokenizer:
    files = open_files(file)
    return GgufTokenizer(Metadata(files.path, files.metadata))


def refusal(tmp_path: Path, tokens: Tokens) -> str:
    model = tiny_llama(vocabulary_size=len(tokens.texts))
    file = write_model(model, tmp_path / "model.gguf", Form(tokens=tokens))
    with pytest.raises(ModelRefused) as refused:
        tokenizer_of(file).files()
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", cases())
def test_every_text_becomes_the_tokens_of_llama_cpp(tmp_path: Path, name: str) -> None:
    """With control tokens, with what stands in front of a text, and of a user, whose text has neither."""
    files = tokenizer_of(write_case(tmp_path, name)).files()
    tokenizer = Tokenizer.from_str(files.tokenizer_json.decode())
    control = {
        token: added.content
        for token, added in tokenizer.get_added_tokens_decoder().items()
        if added.special
    }
    ordinary = OrdinaryText(tokenizer, control)
    for text, plain, begun, said in zip(TEXTS, *MEASURED[name].values(), strict=True):
        assert tokenizer.encode(text, add_special_tokens=False).ids == plain, text
        assert tokenizer.encode(text, add_special_tokens=True).ids == begun, text
        assert ordinary.encode(text, Boundary.FIRST) == said, text


@pytest.mark.parametrize("name", ["gpt-2", "pieces"])
def test_tokens_become_their_text_again(tmp_path: Path, name: str) -> None:
    tokenizer = Tokenizer.from_str(
        tokenizer_of(write_case(tmp_path, name)).files().tokenizer_json.decode()
    )
    for text in TEXTS:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if not tokenizer.get_added_tokens_decoder().keys() & set(ids):
            assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_a_session_can_use_it(tmp_path: Path) -> None:
    files = tokenizer_of(write_case(tmp_path, "pieces")).files()
    tokenizer = SessionTokenizer(
        files.tokenizer_json.decode(), begin_token=files.begin_token, end_token=files.end_token
    )
    assert (files.begin_token, files.end_token, files.unknown_token) == ("<s>", "</s>", "<unk>")
    assert tokenizer.encode("hello", begin=True)[0] == 1
    assert 2 not in tokenizer.encode("</s>", begin=True), "a user's text holds no control token"


def test_ends_are_all_that_llama_cpp_stops_at(tmp_path: Path) -> None:
    """The token that ends a text, first, and those that are known by their text, whatever their type."""
    tokenizer = tokenizer_of(write_case(tmp_path, "qwen2"))
    texts = [tokenizer.tokens[end] for end in tokenizer.ends()]
    assert texts == ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end|>"]


def test_tokens_that_a_file_does_not_name_are_none_of_merged_bytes(tmp_path: Path) -> None:
    """For these llama.cpp takes token 11, which is Falcon's. SentencePiece has three of its own."""
    merged = bytes_that_merge("gpt-2")
    unnamed = replace(merged, more=lambda _: None)
    model = tiny_llama(vocabulary_size=len(merged.texts))
    file = write_model(model, tmp_path / "bytes.gguf", Form(tokens=unnamed))
    files = tokenizer_of(file).files()
    assert (files.begin_token, files.end_token) == ("", "")
    assert 11 not in tokenizer_of(file).ends()
    pieces = replace(scored_pieces(put_space=True), more=lambda _: None)
    model = tiny_llama(vocabulary_size=len(pieces.texts))
    files = tokenizer_of(write_model(model, tmp_path / "pieces.gguf", Form(tokens=pieces))).files()
    assert (files.begin_token, files.end_token, files.unknown_token) == ("<s>", "</s>", "<unk>")


def test_an_end_that_a_vocabulary_uses_otherwise_is_none(tmp_path: Path) -> None:
    tokens = word_tokens(61)
    texts = [*tokens.texts[:-3], "<|return|>", "<|call|>", "<|end|>"]
    file = write_model(
        tiny_llama(),
        tmp_path / "m.gguf",
        Form(
            tokens=Tokens(texts=texts, types=tokens.types, scores=tokens.scores, more=tokens.more)
        ),
    )
    assert tokenizer_of(file).ends() == (1, 58, 59)


def test_the_order_of_merges_decides(tmp_path: Path) -> None:
    """Of pieces with scores the largest comes first, and the first place where two are alike."""
    texts = ["<unk>", "a", "b", "c", "ab", "bc", "aa"]
    scores = [0.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0]
    types = [2, 1, 1, 1, 1, 1, 1]

    def more(writer: GGUFWriter) -> None:
        writer.add_add_bos_token(False)
        writer.add_add_space_prefix(False)

    tokens = Tokens(texts=texts, types=types, scores=scores, more=more)
    file = write_model(tiny_llama(vocabulary_size=7), tmp_path / "m.gguf", Form(tokens=tokens))
    tokenizer = Tokenizer.from_str(tokenizer_of(file).files().tokenizer_json.decode())
    assert tokenizer.encode("abc").tokens == ["a", "bc"]
    assert tokenizer.encode("aaa").tokens == ["aa", "a"]


def test_a_kind_that_is_not_read_is_named(tmp_path: Path) -> None:
    tokens = word_tokens(61)
    other = Tokens(kind="rwkv", texts=tokens.texts, types=tokens.types)
    assert "its tokenizer is of the kind 'rwkv', and gpt2 and llama are read" in refusal(
        tmp_path, other
    )


def test_a_split_that_is_not_known_is_named(tmp_path: Path) -> None:
    other = Tokens(
        kind="gpt2", texts=word_tokens(61).texts, types=[1] * 61, merges=[], split="never-seen"
    )
    assert "its tokenizer splits text as 'never-seen', which is not known" in refusal(
        tmp_path, other
    )


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (Tokens(texts=["w"] * 61, types=[1] * 61, scores=[0.0] * 61), "names a token twice"),
        (
            Tokens(texts=word_tokens(61).texts, types=[1] * 60, scores=[0.0] * 61),
            "has 60 token_type for 61",
        ),
        (Tokens(texts=word_tokens(61).texts, types=[1] * 61), "lists no scores"),
        (Tokens(kind="gpt2", texts=word_tokens(61).texts, types=[1] * 61), "lists no merges"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path: Path, tokens: Tokens, reason: str) -> None:
    assert f"its tokenizer {reason}" in refusal(tmp_path, tokens)


def test_every_split_can_be_used() -> None:
    from tokenizers import Regex

    for split in SPLITS.values():
        for expression in split.expressions:
            Regex(expression)
