"""A folder's tokenizer is what transformers makes of the folder, wherever its files say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from models_for_tests import edit_json
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.model.tokenizer_files import read_tokenizer
from outrider_server.session.text.tokenizer import Tokenizer
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as RawTokenizer
from transformers import AutoTokenizer

WORDS = ["<unk>", "<s>", "</s>", "<|im_end|>", "<pad>", "\u2581"]
TEXTS = ["the dog", "a <|im_end|> b", "the <think>dog</think>", "<s> the dog</s>", "dog <x> a"]
GENERAL = {"tokenizer_class": "PreTrainedTokenizerFast"}
THINK = {"content": "<think>", "special": False, "normalized": False}
SPECIAL_THINK = THINK | {"special": True, "rstrip": True}


def folder_of(path: Path, files: dict[str, Any], added: list[str], processor: Any = None) -> Path:
    """A folder with a small tokenizer like Llama's, as `added` knows special tokens, and other files."""
    letters = {f"<0x{byte:02X}>": len(WORDS) + byte for byte in range(256)}
    vocabulary = {word: index for index, word in enumerate(WORDS)} | letters
    vocabulary |= {letter: len(vocabulary) + index for index, letter in enumerate("thedogab")}
    raw = RawTokenizer(
        models.BPE(vocabulary, [], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    raw.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    raw.add_special_tokens([AddedToken(text, normalized=False) for text in added])
    if processor is not None:
        raw.post_processor = processor
    path.mkdir()
    raw.save(str(path / "tokenizer.json"))
    (path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for name, content in files.items():
        edit_json(path / name, **content)
    return path


BEGINS = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
AS_OBJECTS = {name: {"content": text, "lstrip": False} for name, text in NAMED.items()}
CASES: dict[str, tuple[dict[str, Any], list[str], Any]] = {
    "all in one file": ({CONFIG: GENERAL | NAMED}, WORDS[:5], BEGINS),
    "begin token in the post-processor only": ({CONFIG: GENERAL}, WORDS[:5], BEGINS),
    "tokens in the map only": ({CONFIG: GENERAL, MAP: NAMED}, WORDS[:5], BEGINS),
    "tokens in the map as objects": ({CONFIG: GENERAL, MAP: AS_OBJECTS}, WORDS[:5], BEGINS),
    "the map against the configuration": (
        {CONFIG: GENERAL | NAMED, MAP: {"eos_token": "<|im_end|>"}},
        WORDS[:5],
        None,
    ),
    "added tokens against the map": (
        {
            CONFIG: GENERAL | NAMED | {"added_tokens_decoder": {"270": SPECIAL_THINK}},
            MAP: {"eos_token": "<|im_end|>"},
        },
        WORDS[:5],
        None,
    ),
    "none is named": ({CONFIG: GENERAL | dict.fromkeys(NAMED)}, WORDS[:5], BEGINS),
    "a token that only the configuration calls special": (
        {CONFIG: GENERAL | NAMED | {"eos_token": "<|im_end|>"}},
        WORDS[:3],
        BEGINS,
    ),
    "an added token in added_tokens_decoder only": (
        {CONFIG: GENERAL | NAMED | {"added_tokens_decoder": {"270": THINK}}},
        WORDS[:5],
        BEGINS,
    ),
    "a special one in added_tokens_decoder only": (
        {CONFIG: GENERAL | NAMED | {"added_tokens_decoder": {"270": SPECIAL_THINK}}},
        WORDS[:5],
        BEGINS,
    ),
    "the end token in added_tokens_decoder only": (
        {
            CONFIG: GENERAL
            | NAMED
            | {"eos_token": "<think>", "added_tokens_decoder": {"270": SPECIAL_THINK}}
        },
        WORDS[:5],
        BEGINS,
    ),
    "several, not in order": (
        {
            CONFIG: GENERAL
            | {"added_tokens_decoder": {"271": THINK | {"content": "</think>"}, "270": THINK}}
        },
        WORDS[:5],
        BEGINS,
    ),
    "an added token in added_tokens.json only": (
        {CONFIG: GENERAL | NAMED, ADDED: {"<think>": 270}},
        WORDS[:5],
        BEGINS,
    ),
    "more special tokens by name": (
        {CONFIG: GENERAL | NAMED | {"additional_special_tokens": ["<|im_end|>"]}},
        WORDS[:3],
        BEGINS,
    ),
}


@pytest.mark.parametrize(("files", "added", "processor"), CASES.values(), ids=CASES.keys())
def test_tokens_are_those_of_the_library(tmp_path, files, added, processor):
    folder = folder_of(tmp_path / "model", files, added, processor)
    read, library = read_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    named = (library.bos_token, library.eos_token, library.pad_token, library.unk_token)
    assert (read.begin_token, read.end_token, read.pad_token, read.unknown_token) == tuple(
        text or "" for text in named
    )
    tokenizer = Tokenizer(
        read.tokenizer_json.decode(), begin_token=read.begin_token, end_token=read.end_token
    )
    front = len(tokenizer._begins_with)
    for text in TEXTS:
        expected = library(text).input_ids
        if front and text.startswith("<s>"):
            expected = expected[front:]  # the text has it
        assert tokenizer.encode(text, begin=True, parse_control_tokens=True) == expected
    assert tokenizer.encode("the dog", begin=True)[:1] == library("the dog").input_ids[:1]


def test_without_any_file_beside_the_models_configuration_names_the_tokens(tmp_path):
    folder = folder_of(tmp_path / "model", {}, WORDS[:5], BEGINS)
    edit_json(folder / "config.json", bos_token_id=1, eos_token_id=3, pad_token_id=None)
    read = read_tokenizer(folder)
    assert (read.begin_token, read.end_token, read.pad_token) == ("<s>", "<|im_end|>", "")
    tokenizer = Tokenizer(read.tokenizer_json.decode(), begin_token=read.begin_token)
    library = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("the dog", begin=True) == library("the dog").input_ids


def test_a_file_that_lacks_nothing_is_handed_on_as_it_is(tmp_path):
    folder = folder_of(tmp_path / "model", {CONFIG: GENERAL | NAMED}, WORDS[:5])
    assert read_tokenizer(folder).tokenizer_json == (folder / "tokenizer.json").read_bytes()


def test_a_token_without_an_id_anywhere_gets_none(tmp_path):
    files = {CONFIG: GENERAL | NAMED | {"pad_token": "[PAD]"}}
    read = read_tokenizer(folder_of(tmp_path / "model", files, WORDS[:5]))
    assert read.pad_token == "[PAD]"
    assert Tokenizer(read.tokenizer_json.decode()).vocabulary_size == 270


def test_an_added_token_that_cannot_have_its_id_is_refused(tmp_path):
    files = {CONFIG: GENERAL | {"added_tokens_decoder": {"300": THINK}}}
    folder = folder_of(tmp_path / "model", files, WORDS[:5])
    with pytest.raises(ModelRefused, match=r"'<think>' the id 300.* give it 270 only"):
        read_tokenizer(folder)


def test_a_file_without_meaning_is_refused(tmp_path):
    folder = folder_of(tmp_path / "model", {CONFIG: GENERAL | NAMED}, WORDS[:2])
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelRefused, match="cannot be read"):
        read_tokenizer(folder)
