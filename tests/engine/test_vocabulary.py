"""Tokenizers that do the same are one vocabulary; what only one of tokenizer and model has is never drawn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models_for_tests import loaded, needs_kernels, packable_llama, tiny_limits, tiny_llama
from outrider_server.core.errors import ModelRefused
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.layout import NOT_FINITE, Row, RowResult
from outrider_server.engine.model.vocabulary import read_vocabulary
from outrider_server.engine.step import StepRunner
from outrider_server.models import TARGET_FOLDER
from transformers import AutoTokenizer, LlamaForCausalLM

BUNDLED = (TARGET_FOLDER / "tokenizer.json").read_bytes()
KNOWN, ROWS = 40, 61
PROMPT = (7, 8, 9, 10)
DRAWS = {
    "greedy": Draw(SamplingParams(temperature=0.0), 3, 4),
    "sampled": Draw(SamplingParams(), 3, 4),
    "filtered": Draw(SamplingParams(temperature=1.5, top_k=50, top_p=0.98, min_p=0.001), 3, 4),
    "penalized": Draw(SamplingParams(repetition_penalty=1.4, presence_penalty=0.5), 3, 4),
    "biased": Draw(SamplingParams(temperature=0.7, logit_bias={5: 2.0}), 3, 4),
    "told": Draw(SamplingParams(temperature=1.0), 3, 4, logprobs=20),
}

Change = Callable[[dict[str, Any]], None]


def fingerprint(change: Change | None = None) -> str:
    """That of the bundled tokenizer, changed."""
    state = json.loads(BUNDLED)
    if change is not None:
        change(state)
    return read_vocabulary(json.dumps(state).encode(), 4096).fingerprint


def old_merges(state: dict[str, Any]) -> None:
    state["model"]["merges"] = [" ".join(pair) for pair in state["model"]["merges"]]
    del state["model"]["ignore_merges"]


def shuffled(state: dict[str, Any]) -> None:
    state["model"]["vocab"] = dict(reversed(state["model"]["vocab"].items()))


def padded(state: dict[str, Any]) -> None:
    state["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    state["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }


ALIKE: dict[str, Change] = {
    "merges as before version 0.20": old_merges,
    "another order of keys": shuffled,
    "a saved truncation and padding": padded,
    "prefixes that are empty": lambda state: state["model"].update(continuing_subword_prefix=""),
    "a begin of texts": lambda state: state.update(
        post_processor=state["decoder"] | {"add_prefix_space": False}
    ),
    "offsets that are trimmed": lambda state: state["pre_tokenizer"]["pretokenizers"][1].update(
        trim_offsets=False
    ),
    "another decoder": lambda state: state.update(decoder=None),
    "a token that is shown": lambda state: state["added_tokens"][0].update(special=False),
}
OTHERS: dict[str, Change] = {
    "two ids exchanged": lambda state: state["model"]["vocab"].update({"!": 2, '"': 1}),
    "merges in another order": lambda state: state["model"]["merges"].reverse(),
    "a merge less": lambda state: state["model"]["merges"].pop(),
    "another normalisation": lambda state: state.update(normalizer={"type": "NFC"}),
    "another splitting": lambda state: state["pre_tokenizer"]["pretokenizers"].pop(0),
    "an added token more": lambda state: state["added_tokens"].append(
        state["added_tokens"][0] | {"id": 4096, "content": "<more>"}
    ),
    "an added token that takes the space before it": lambda state: state["added_tokens"][0].update(
        lstrip=True
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_tokenizer_that_does_the_same_is_the_same_vocabulary(name: str) -> None:
    assert fingerprint(ALIKE[name]) == fingerprint()


@pytest.mark.parametrize("name", OTHERS)
def test_a_tokenizer_that_does_another_thing_is_another_vocabulary(name: str) -> None:
    assert fingerprint(OTHERS[name]) != fingerprint()


def test_a_tokenizer_that_the_library_wrote_anew_is_the_same_vocabulary(tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(TARGET_FOLDER).save_pretrained(tmp_path)
    written = (tmp_path / "tokenizer.json").read_bytes()
    assert written != BUNDLED
    assert read_vocabulary(written, 4096) == read_vocabulary(BUNDLED, 4096)


def test_the_smaller_of_tokenizer_and_model_bounds_the_ids() -> None:
    assert (read_vocabulary(BUNDLED, 4200).size, read_vocabulary(BUNDLED, 4200).is_cut) == (4096, 1)
    assert (read_vocabulary(BUNDLED, 4000).size, read_vocabulary(BUNDLED, 4000).is_cut) == (4000, 0)


@pytest.mark.parametrize("content", [b"{}", b"\xff", b"[1]"])
def test_a_tokenizer_that_cannot_be_read_is_refused_in_one_sentence(content: bytes) -> None:
    with pytest.raises(ModelRefused, match=r"tokenizer\.json cannot be read; copy it anew"):
        read_vocabulary(content, 9)


def with_likely_padding(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """The rows beyond the tokenizer would win every draw; the last gives no number at all."""
    rows = model.lm_head.weight.data
    rows[KNOWN:] = 30 * rows[: ROWS - KNOWN]
    rows[-1] = torch.nan
    return model


def without_padding(model: LlamaForCausalLM) -> LlamaForCausalLM:
    model.resize_token_embeddings(KNOWN)
    return model


def decided(model: LlamaForCausalLM, mode: str, draw: Draw) -> RowResult:
    runner = StepRunner(loaded(model, tokenizer_size=KNOWN), tiny_limits(), mode)
    runner.draws.write(0, draw)
    return runner.decide([Row(0, 0, PROMPT)], 1)[0]


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize(
    ("make", "mode"),
    [
        pytest.param(tiny_llama, "off", id="aligned"),
        pytest.param(packable_llama, "auto", id="packed", marks=needs_kernels),
    ],
)
def test_rows_beyond_the_tokenizer_change_no_draw(
    make: Callable[..., LlamaForCausalLM], mode: str, name: str
) -> None:
    got = decided(with_likely_padding(make(vocabulary_size=ROWS)), mode, DRAWS[name])
    wanted = decided(without_padding(make(vocabulary_size=ROWS)), mode, DRAWS[name])
    assert got.tokens == wanted.tokens
    assert NOT_FINITE not in got.tokens
    for one, other in zip(got.logprobs, wanted.logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)
        assert [token for token, _ in one.top] == [token for token, _ in other.top]


@pytest.mark.parametrize("name", DRAWS)
def test_a_draft_that_knows_more_ids_draws_none_that_its_target_lacks(name: str) -> None:
    """Told of the target's ids, it draws as a model that has no others."""
    model = tiny_llama(vocabulary_size=ROWS)
    model.lm_head.weight.data[KNOWN:] *= 30
    draw = DRAWS[name]
    told = Draw(draw.sampling, draw.seed, draw.generated_from, vocabulary_size=KNOWN)
    runner = StepRunner(loaded(model), tiny_limits(), "off")
    runner.draws.write(0, told)
    got = runner.decide([Row(0, 0, PROMPT)], 1)[0].tokens
    assert got == decided(without_padding(tiny_llama(vocabulary_size=ROWS)), "off", draw).tokens
