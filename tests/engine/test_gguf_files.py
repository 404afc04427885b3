"""What a GGUF file is refused for: one sentence that names the file, before any weight is read."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf_files import Form, close, word_tokens, write_model, write_tokens
from models_for_tests import packable_llama
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.gguf.blocks import PACKED, PLAIN, READ, WIDENED, widened
from outrider_server.engine.gguf.files import open_files
from outrider_server.engine.gguf.header import read_header
from outrider_server.engine.gguf.integers import numbers_of
from outrider_server.engine.model.loading import load_model
from outrider_server.planning.config_file import read_config

CPU = torch.device("cpu")
KINDS = 4
"""Bytes behind a tensor's name and sizes, where its type stands."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model's file."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    return write_model(packable_llama(), path).read_bytes()


def refusal(path: Path) -> str:
    """What a service and a plan say of a file."""
    with pytest.raises(ModelRefused) as refused:
        load_model(path, "auto", CPU)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def put(at: int, letters: str, *values: int) -> Callable[[bytes], bytes]:
    """The file with other numbers at a place."""

    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        struct.pack_into(letters, changed, at, *values)
        return bytes(changed)

    return change


def kind_of_a_tensor(kind: int) -> Callable[[bytes], bytes]:
    """The file whose embeddings are of another type."""

    def change(content: bytes) -> bytes:
        name = b"token_embd.weight"
        at = content.index(name) + len(name) + 4 + 2 * 8
        return put(at, "<I", kind)(content)

    return change


def said(name: bytes, value: int) -> Callable[[bytes], bytes]:
    """The file with another whole number under a name."""
    return lambda content: put(content.index(name) + len(name) + 4, "<I", value)(content)


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    assert len(old) == len(new)
    return lambda content: content.replace(old, new, 1)


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda content: b"", "is no GGUF file: it does not begin with GGUF"),
    "other magic": (put(0, "4s", b"GGML"), "is no GGUF file"),
    "version 1": (
        put(4, "<I", 1),
        "is GGUF of version 1, and versions 2 and 3 are read; convert it anew",
    ),
    "version 4": (put(4, "<I", 4), "is GGUF of version 4"),
    "big-endian": (put(4, ">I", 3), "is written for big-endian machines"),
    "cut in its header": (lambda content: content[:100], "cut short"),
    "the magic alone": (lambda content: content[:4], "it ends within its header"),
    "cut in its weights": (
        lambda content: content[:-1000],
        r"its tensor \S+ ends behind the file's end\); copy it anew",
    ),
    "a name of 10 GB": (put(24, "<Q", 10 << 30), "it holds a text of 10737418240 bytes"),
    "tensors without end": (put(8, "<Q", 1 << 60), "it counts 1152921504606846976 entries"),
    "values without end": (put(16, "<Q", 1 << 60), "damaged or cut short"),
    "a text that is no UTF-8": (
        replaced(b"general.name", b"general.\xff\xff\xff\xff"),
        "a text that is not UTF-8",
    ),
    "a name twice": (
        replaced(b"llama.block_count", b"llama.vocab_size\x00"[:17]),
        "damaged|does not say",
    ),
    "a type nobody knows": (
        kind_of_a_tensor(250),
        "its tensor token_embd.weight is of type 250, which the package gguf does not know",
    ),
    "a type of no weights": (
        kind_of_a_tensor(GGMLQuantizationType.I32),
        "its tensor token_embd.weight is of type I32, which is not read",
    ),
    "another architecture": (
        replaced(
            b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00mamba"
        ),
        "is of the architecture 'mamba', which is not served from GGUF; llama, qwen2, .* are",
    ),
    "no tokenizer": (
        replaced(b"tokenizer.ggml.model", b"tokenizer.ggml.modem"),
        "it holds no tokenizer; take a file that does",
    ),
    "no sizes": (
        replaced(b"llama.embedding_length", b"other.embedding_length"),
        "it does not say llama.embedding_length",
    ),
    "a size of another kind": (
        replaced(
            b"llama.embedding_length\x04\x00\x00\x00", b"llama.embedding_length\x06\x00\x00\x00"
        ),
        "its llama.embedding_length is",
    ),
    "blocks without end": (
        said(b"llama.block_count", 1 << 31),
        "it says that it has 2147483648 blocks, and holds tensors of 2",
    ),
    "heads without end": (said(b"llama.attention.head_count", 1 << 31), "model.gguf"),
    "no heads": (said(b"llama.attention.head_count", 0), "0 heads do not divide"),
    "what is not understood": (
        replaced(b"llama.context_length", b"llama.context_lengtx"),
        "it says llama.context_lengtx, which is not understood",
    ),
    "a tensor of another name": (
        replaced(b"blk.1.attn_q.weight", b"blk.1.attn_x.weight"),
        r"lacks 1 of the model's tensors \(blk.1.attn_q.weight\)",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_in_one_sentence(good: bytes, tmp_path: Path, name: str) -> None:
    import re

    damage, reason = DAMAGES[name]
    changed = damage(good)
    assert changed != good
    assert re.search(reason, refusal(written(tmp_path / "model.gguf", changed)))


@pytest.mark.parametrize("part", range(1, 40))
def test_a_file_that_ends_anywhere_is_refused(good: bytes, tmp_path: Path, part: int) -> None:
    path = written(tmp_path / "model.gguf", good[: len(good) * part // 40])
    with pytest.raises(ModelRefused, match="damaged or cut short"):
        read_header(path)


def test_bytes_that_are_something_else_are_refused_or_read(good: bytes, tmp_path: Path) -> None:
    """Nothing but ModelRefused, whatever stands in a header."""
    drawn = np.random.default_rng(0)
    size = len(read_header(written(tmp_path / "good.gguf", good)).written)
    for number in range(400):
        changed = bytearray(good)
        for place in drawn.integers(4, size, 3):
            changed[place] = drawn.integers(0, 256)
        path = written(tmp_path / "bad.gguf", bytes(changed))
        said = ""
        try:
            read_config(path)
        except ModelRefused as refused:
            said = str(refused)
        assert not said or str(path) in said, number


def test_a_shape_that_is_not_the_models_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    form = Form(
        dropped=frozenset({"blk.0.ffn_up.weight"}),
        change=lambda writer: writer.add_tensor(
            "blk.0.ffn_up.weight", np.zeros((32, 64), np.float32)
        ),
    )
    said = refusal(write_model(packable_llama(), path, form))
    assert (
        "its tensor blk.0.ffn_up.weight has the shape [32, 64], and [48, 64] by what it says"
        in said
    )


def test_a_tensor_too_many_is_refused_by_name(tmp_path: Path) -> None:
    form = Form(
        change=lambda writer: writer.add_tensor("blk.0.attn_q.scale", np.ones(1, np.float32))
    )
    said = refusal(write_model(packable_llama(), tmp_path / "model.gguf", form))
    assert "1 of its tensors, blk.0.attn_q.scale for one, have no place" in said


def test_a_file_that_is_not_there_is_no_name_on_a_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelRefused, match=r"model file models/some.gguf does not exist"):
        load_model(Path("models/some.gguf"), "auto", CPU)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """A model in several files."""
    write_model(packable_llama(), tmp_path / "model.gguf", Form(split_bytes=60_000))
    found = sorted(tmp_path.glob("*.gguf"))
    assert len(found) > 2
    return found


def test_a_model_in_parts_is_named_by_its_first(parts: list[Path]) -> None:
    model = packable_llama()
    loaded = load_model(parts[0], "float32", CPU)
    assert loaded.name == "model"
    for name, weight in model.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), weight.float()), name
    assert f"name the first of its files, {parts[0].name}" in refusal(parts[1])


def test_a_part_that_lacks_is_named(parts: list[Path]) -> None:
    parts[2].unlink()
    assert f"{parts[2].name} is not beside it" in refusal(parts[0])


def test_a_part_of_another_place_is_refused(parts: list[Path]) -> None:
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(ModelRefused, match="is not part 3 of its model"):
        open_files(parts[0])


def test_a_part_with_another_name_is_refused(parts: list[Path], tmp_path: Path) -> None:
    renamed = parts[0].rename(tmp_path / "other.gguf")
    assert "its name does not end in -00001-of-" in refusal(renamed)


def test_metadata_of_all_kinds_are_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    values = {"uint8": 7, "int8": -7, "uint16": 9, "int16": -9, "uint32": 1 << 31, "int32": -5}
    for kind, value in (values | {"uint64": 1 << 63, "int64": -(1 << 62)}).items():
        getattr(writer, f"add_{kind}")(f"x.{kind}", value)
    writer.add_float32("x.float32", 0.5)
    writer.add_float64("x.float64", 0.1)
    writer.add_bool("x.bool", True)
    writer.add_array("x.numbers", [1, 2, 3])
    writer.add_array("x.texts", ["ä", ""])
    write_tokens(writer, word_tokens(4))
    writer.add_custom_alignment(64)
    writer.add_tensor("t", np.arange(6, dtype=np.float32).reshape(2, 3))
    close(writer)
    header, library = read_header(tmp_path / "m.gguf"), gguf.GGUFReader(tmp_path / "m.gguf")
    for name, field in library.fields.items():
        if not name.startswith("GGUF."):
            held = header.metadata[name]
            assert (list(held) if isinstance(held, tuple) else held) == field.contents(), name
    (tensor,) = header.tensors
    assert (tensor.shape, tensor.begin) == ((2, 3), library.tensors[0].data_offset)


@pytest.mark.parametrize("kind", sorted(READ), ids=lambda kind: kind.name)
def test_every_type_is_read_as_the_library_does(kind: GGMLQuantizationType) -> None:
    """Blocks of anything: what the kernels take, taken apart, is the same bit for bit."""
    from gguf_files import any_blocks

    blocks = any_blocks((3, 512), kind, seed=1)
    expected = gguf.quants.dequantize(blocks, kind)
    values = widened(torch.from_numpy(blocks), kind).float()
    assert torch.equal(values.nan_to_num(), torch.from_numpy(expected).nan_to_num())
    if kind in PACKED:
        taken = numbers_of(torch.from_numpy(blocks), kind.name).dequantized()
        assert torch.equal(taken.nan_to_num(), torch.from_numpy(expected).nan_to_num())
    assert (kind in PLAIN) + (kind in PACKED) + (kind in WIDENED) == 1
