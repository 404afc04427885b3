"""Folders without tokenizer.json: converted where the files say how text is split, else refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from models_for_tests import edit_json
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.model import tokenizer_conversion
from outrider_server.engine.model.tokenizer_files import read_tokenizer
from outrider_server.models import TARGET_FOLDER
from tokenizers import Tokenizer

TEXTS = ("def fib(n):\n    return  n", " two  spaces ", "\tGröße 12345 ①\n\n", "<s>x</s>")
BUNDLED = json.loads((TARGET_FOLDER / "tokenizer.json").read_text())


def words(folder: Path, **config: object) -> Path:
    """The bundled vocabulary in the files that GPT-2's tokenizer had."""
    model = BUNDLED["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = "\n".join(" ".join(pair) for pair in model["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")
    edit_json(folder / "config.json", **config)
    return folder


def read(folder: Path) -> Tokenizer:
    return Tokenizer.from_str(read_tokenizer(folder).tokenizer_json.decode())


@pytest.mark.parametrize(
    ("model_type", "splitter"), [("gpt2", "ByteLevel"), ("qwen2", "Sequence"), ("mpt", "ByteLevel")]
)
def test_a_vocabulary_with_merges_splits_as_the_class_of_its_model(
    model_type: str, splitter: str, tmp_path: Path
) -> None:
    state = json.loads(read(words(tmp_path, model_type=model_type)).to_str())
    assert state["pre_tokenizer"]["type"] == splitter
    for part in ("vocab", "merges"):
        assert state["model"][part] == BUNDLED["model"][part]
    assert [token["id"] for token in state["added_tokens"]] == [0], "none of the class's own"


def test_what_the_files_beside_say_holds_for_a_converted_tokenizer_too(tmp_path: Path) -> None:
    folder = words(tmp_path, model_type="gpt2")
    edit_json(
        folder / "tokenizer_config.json",
        eos_token="<|im_end|>",
        added_tokens_decoder={"4096": {"content": "<|im_end|>", "special": True}},
    )
    assert read(folder).token_to_id("<|im_end|>") == 4096
    assert read_tokenizer(folder).end_token == "<|im_end|>"


def test_a_vocabulary_of_which_nothing_tells_how_text_is_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"cannot tell .* how a falcon tokenizer splits text"):
        read_tokenizer(words(tmp_path, model_type="falcon"))


def test_a_tokenizer_that_needs_code_of_its_own_is_refused(tmp_path: Path) -> None:
    folder = words(tmp_path, model_type="gpt2")
    edit_json(
        folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization_own.Own", None]}
    )
    with pytest.raises(ModelRefused, match="its tokenizer wants to run code of its own"):
        read_tokenizer(folder)


def pieces(folder: Path, **options: object) -> Any:
    """A small SentencePiece model in the folder, and SentencePiece over it."""
    library = pytest.importorskip("sentencepiece")
    corpus = folder / "corpus.txt"
    corpus.write_text(Path(json.__file__).read_text() + Path(pytest.__file__).read_text())
    settings = {"model_type": "bpe", "byte_fallback": True, "minloglevel": 2} | options
    library.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(folder / "tokenizer"), vocab_size=500, **settings
    )
    edit_json(folder / "config.json", model_type="llama")
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "<s>",
    }  # its splitting is not the file's
    edit_json(folder / "tokenizer_config.json", **settings)
    return library.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


PLAIN = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


@pytest.mark.parametrize(
    "options",
    [
        PLAIN,
        PLAIN | {"model_type": "unigram"},
        PLAIN | {"add_dummy_prefix": False},
        {"normalization_rule_name": "nfkc"},
    ],
    ids=str,
)
def test_a_sentencepiece_model_gives_the_ids_of_sentencepiece(
    options: dict[str, object], tmp_path: Path
) -> None:
    wanted = pieces(tmp_path, **options)
    tokenizer = read(tmp_path)
    for text in TEXTS[:-1]:
        assert tokenizer.encode(text, add_special_tokens=False).ids == wanted.encode(text)
    assert tokenizer.encode(TEXTS[0]).ids == [1, *wanted.encode(TEXTS[0])]
    assert tokenizer.get_vocab_size() == 500
    assert read_tokenizer(tmp_path).begin_token == "<s>"
    edit_json(tmp_path / "tokenizer_config.json", add_bos_token=False, bos_token="<s>")
    assert read(tmp_path).encode(TEXTS[0]).ids == wanted.encode(TEXTS[0])


def test_a_conversion_that_splits_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces(tmp_path)
    convert = tokenizer_conversion.TokenizersBackend.from_pretrained

    def wrong(*args: object, **settings: object) -> object:
        converted = convert(*args, **settings)
        converted.backend_tokenizer.pre_tokenizer = None
        return converted

    monkeypatch.setattr(tokenizer_conversion.TokenizersBackend, "from_pretrained", wrong)
    with pytest.raises(
        ModelRefused, match="whose conversion by transformers splits text otherwise"
    ):
        read_tokenizer(tmp_path)


def test_a_sentencepiece_model_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    edit_json(tmp_path / "config.json", model_type="llama")
    if importlib.util.find_spec("sentencepiece"):
        with pytest.raises(ModelRefused, match=r"tokenizer\.model that cannot be read"):
            read_tokenizer(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelRefused, match=r"pip install 'outrider\[sentencepiece\]'"):
        read_tokenizer(tmp_path)
