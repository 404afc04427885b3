"""No prompt comes twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from outrider_bench.prompts import SHORTEST, Prompts
from outrider_server.core.errors import StartupError
from outrider_server.models import TARGET_FOLDER, held_out_prompts


def test_hundreds_of_prompts_all_differ() -> None:
    prompts = Prompts.of(TARGET_FOLDER)
    taken = [prompts.take() for _ in range(4 * len(held_out_prompts()))]
    assert len({tokens for _, tokens in taken}) == len(taken)
    assert len({name for name, _ in taken}) == len(taken)
    assert min(len(tokens) for _, tokens in taken) >= SHORTEST


def test_long_prompts_have_the_length_and_differ_from_their_first_tokens_on() -> None:
    prompts = Prompts.of(TARGET_FOLDER)
    taken = [prompts.take_long(length)[1] for length in (8, 700, 3000, 3000)]
    assert [len(tokens) for tokens in taken] == [8, 700, 3000, 3000]
    assert len({tokens[:8] for tokens in taken}) == len(taken)


def test_a_thousand_short_prompts_hardly_repeat() -> None:
    prompts = Prompts.of(TARGET_FOLDER)
    taken = [prompts.take_short(16) for _ in range(1000)]
    assert {len(tokens) for tokens in taken} == {16}
    assert len(set(taken)) > 980  # texts repeat a phrase here and there


def test_texts_that_are_used_up_are_not_used_again() -> None:
    prompts = Prompts([tuple(range(SHORTEST + 4))])
    prompts.take()
    with pytest.raises(StartupError, match="no more prompts"):
        prompts.take()


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(StartupError, match="has no tokenizer"):
        Prompts.of(tmp_path)
