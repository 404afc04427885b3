"""What a folder says of the tokens that its draft knows: whole, or refused in a sentence; never a target."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models_for_tests import VOCABULARY_SIZE, edit_json, needs_kernels, save_folder
from outrider_server.core.errors import ModelRefused, StartupError
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.engine import Engine
from outrider_server.engine.kept_model import KeptModel
from outrider_server.engine.layout import Row
from outrider_server.engine.model.formats import check_target
from outrider_server.engine.model.known_tokens_file import MAP, TENSOR
from outrider_server.engine.model.loading import load_model
from outrider_server.engine.options import EngineOptions
from outrider_server.engine.records import Records
from outrider_server.engine.starting import Start
from outrider_server.host.building import engine_builder
from own_vocabularies import save_cut, write_map
from safetensors.torch import save_file

KNOWN = (1, 3, 4, 9, 10, 11, 17, 20, 31, 32, 33, 40, 41, 52, 59)
CPU = torch.device("cpu")
TOKENS = (9, 0, 33, 33, 60, 3, 0, 20)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(tmp_path_factory.mktemp("models") / "whole")


@pytest.fixture(scope="module")
def cut(whole: Path) -> Path:
    return save_cut(whole, whole.parent / "cut", KNOWN)


@pytest.fixture
def folder(cut: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cut, tmp_path / "draft")


def hold(folder: Path, **tensors: torch.Tensor) -> None:
    """Writes another map."""
    save_file(tensors, folder / MAP)


def of(*token_ids: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(token_ids, dtype=dtype)


def say(folder: Path, **changes: object) -> None:
    """Changes what the configuration says of the map."""
    entry = json.loads((folder / "config.json").read_text())["draft_vocab"]
    edit_json(folder / "config.json", draft_vocab=entry | changes)


def forget_entry(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    del content["draft_vocab"]
    (folder / "config.json").write_text(json.dumps(content))


def cut_off(folder: Path) -> None:
    (folder / MAP).write_bytes((folder / MAP).read_bytes()[:-5])


def lose_a_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text())
    del state["model"]["vocab"][f"w{VOCABULARY_SIZE - 1}"]
    path.write_text(json.dumps(state))


SWAPPED = (1, 4, 3, *KNOWN[3:])
TWICE = (1, 3, 3, *KNOWN[3:])
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no map": (lambda folder: (folder / MAP).unlink(), f"lacks {MAP}, .*; copy it there"),
    "a damaged map": (cut_off, f"{MAP} is damaged or cut off; make the draft anew"),
    "a map under another name": (
        lambda folder: hold(folder, ids=of(*KNOWN)),
        "must hold one tensor, token_ids, and holds ids",
    ),
    "two maps": (
        lambda folder: hold(folder, **{TENSOR: of(*KNOWN), "more": of(1)}),
        "must hold one tensor, token_ids, and holds more, token_ids|token_ids, more",
    ),
    "a wider dtype": (
        lambda folder: hold(folder, **{TENSOR: of(*KNOWN, dtype=torch.int64)}),
        r"token_ids in .* is int64 \[15\], and must be int32 \[15\]",
    ),
    "a token less": (
        lambda folder: hold(folder, **{TENSOR: of(*KNOWN[1:])}),
        r"is int32 \[14\], and must be int32 \[15\]: one id for each row of the model's vocab_size of 16",
    ),
    "a matrix": (
        lambda folder: hold(folder, **{TENSOR: of(*KNOWN)[None]}),
        r"is int32 \[1, 15\], and must be int32 \[15\]",
    ),
    "an order of its own": (
        lambda folder: hold(folder, **{TENSOR: of(*SWAPPED)}),
        "must ascend, and has 3 after 4",
    ),
    "a token twice": (
        lambda folder: hold(folder, **{TENSOR: of(*TWICE)}),
        "must ascend, and has 3 after 3",
    ),
    "a token too far": (
        lambda folder: hold(folder, **{TENSOR: of(*KNOWN[:-1], VOCABULARY_SIZE)}),
        "names token id 61, and its target has 0 to 60",
    ),
    "a token below all": (
        lambda folder: hold(folder, **{TENSOR: of(-1, *KNOWN[1:])}),
        "names token id -1, and its target has 0 to 60",
    ),
    "no entry": (forget_entry, f"it holds {MAP}, and its config.json has no draft_vocab"),
    "an entry that is none": (
        lambda folder: edit_json(folder / "config.json", draft_vocab=[61]),
        "lacks target_vocab_size or unknown as a whole number",
    ),
    "no size": (
        lambda folder: say(folder, target_vocab_size=None),
        "lacks target_vocab_size or unknown as a whole number",
    ),
    "another size": (
        lambda folder: say(folder, target_vocab_size=99),
        r"of a target with 99 token ids, and its tokenizer\.json has 61; copy the tokenizer files",
    ),
    "another tokenizer": (lose_a_token, r"with 61 token ids, and its tokenizer\.json has 60"),
    "another unknown": (
        lambda folder: say(folder, unknown=0),
        "names 0 as its own id for unknown tokens, which must be the last of .* 16",
    ),
    "an unknown beyond": (lambda folder: say(folder, unknown=16), "names 16 as its own id"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_is_not_whole_is_refused_in_one_sentence(name: str, folder: Path) -> None:
    change, reason = REFUSED[name]
    change(folder)
    with pytest.raises(ModelRefused, match=reason) as refused:
        load_model(folder, "auto", CPU)
    assert str(folder) in str(refused.value)
    assert "; " in str(refused.value)


def test_the_vocabulary_is_the_targets_and_end_tokens_are_told_by_its_ids(
    whole: Path, cut: Path, folder: Path
) -> None:
    target, draft = load_model(whole, "auto", CPU), load_model(cut, "auto", CPU)
    assert draft.vocabulary_fingerprint == target.vocabulary_fingerprint
    assert draft.vocabulary_size == target.vocabulary_size == VOCABULARY_SIZE
    assert draft.drawn_rows == len(KNOWN)
    edit_json(folder / "config.json", eos_token_id=[2, 15])
    edit_json(folder / "generation_config.json", eos_token_id=[2, 15])
    assert load_model(folder, "auto", CPU).end_token_ids == (KNOWN[2],)


def test_a_tokenizer_without_settings_is_the_targets_too(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    """The ids in config.json are the draft's own: no names of the tokenizer's tokens."""
    target = shutil.copytree(whole, tmp_path / "target")
    for each in (folder, target):
        (each / "tokenizer_config.json").unlink()
    edit_json(folder / "config.json", eos_token_id=3, bos_token_id=5)
    fingerprints = {
        load_model(each, "auto", CPU).vocabulary_fingerprint for each in (folder, target)
    }
    assert len(fingerprints) == 1


def test_a_map_of_other_tokens_is_another_model_of_the_same_vocabulary(folder: Path) -> None:
    before = load_model(folder, "auto", CPU)
    assert load_model(folder, "auto", CPU).model_fingerprint == before.model_fingerprint
    write_map(folder, (*KNOWN[:-1], KNOWN[-1] + 1), VOCABULARY_SIZE)
    after = load_model(folder, "auto", CPU)
    assert after.model_fingerprint != before.model_fingerprint
    assert after.vocabulary_fingerprint == before.vocabulary_fingerprint


def test_it_is_no_target(whole: Path, cut: Path) -> None:
    check_target(whole)
    options = EngineOptions(folder=cut, slots=1, compile="off", threads=1)
    for refuse in (
        lambda: check_target(cut),
        engine_builder(options, check=check_target),
    ):
        with pytest.raises(StartupError, match="can only draft; name the folder of the target"):
            refuse()


def engine_of(folder: Path, records: Path, **changes: object) -> Engine:
    """A draft's engine as its service has it."""
    settings: dict[str, object] = {"slots": 2, "width": 2, "prefill_width": 16, "threads": 1}
    options = EngineOptions(folder=folder, park_bytes=0, **(settings | changes))
    return engine_builder(options, start=Start(records=Records(records)))()


def decided(engine: Engine) -> list[int]:
    """A sampled token after each of some."""
    engine.runner.draws.write(0, Draw(SamplingParams(repetition_penalty=1.2), 5, 0))
    return [
        engine.runner.decide([Row(0, at, TOKENS[at : at + 2])], 1)[0].tokens[-1]
        for at in range(0, len(TOKENS), 2)
    ]


@needs_kernels
def test_a_second_start_recalls_it_with_the_map_that_it_has(folder: Path, tmp_path: Path) -> None:
    first = engine_of(folder, tmp_path, dtype="bfloat16")
    again = engine_of(folder, tmp_path, dtype="bfloat16")
    assert isinstance(again.loaded, KeptModel)
    assert decided(again) == decided(first)
    assert again.describe().known_tokens == len(KNOWN)
    write_map(folder, tuple(token + 1 for token in KNOWN), VOCABULARY_SIZE)
    other = engine_of(folder, tmp_path, dtype="bfloat16")
    assert not isinstance(other.loaded, KeptModel)
    assert set(decided(other)) <= {token + 1 for token in KNOWN}


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_it_is_quantized_as_any_other(quantization: str, cut: Path, tmp_path: Path) -> None:
    """On torch's kernels; the engine's own take what `int8` gives them above."""
    engine = engine_of(cut, tmp_path, compile="off", quantization=quantization)
    assert engine.describe().quantization == quantization
    assert set(decided(engine)) <= set(KNOWN)
