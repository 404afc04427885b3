"""The promise with a draft that knows a part of the target's tokens."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from models_for_tests import needs_kernels
from outrider_server.models import DRAFT_FOLDER, held_out_prompts
from own_vocabularies import most_frequent, save_cut

from .conftest import started_host, target_host
from .test_promise import LOOPS, SAMPLINGS, Bench, Case, keep_promise

KIND = "own vocabulary"
KNOWN = 1023


@pytest.fixture(scope="module")
def known() -> list[int]:
    """A quarter of the bundled tokens, those that come most often."""
    return most_frequent(DRAFT_FOLDER / "tokenizer.json", held_out_prompts(), KNOWN)


@pytest.fixture(scope="module")
def cut_draft(known: list[int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled draft's rows of these tokens."""
    return save_cut(DRAFT_FOLDER, tmp_path_factory.mktemp("cut"), known)


def own_cases() -> list[Case]:
    """Every sampling and both loops; windows take turns."""
    windows = itertools.cycle((7, 3, 5, 1, 4))
    return [
        Case(sampling, prompt % 5, KIND, next(windows), loop)
        for prompt, (sampling, loop) in enumerate(itertools.product(SAMPLINGS, LOOPS))
    ]


async def keep(folder: Path, mode: str, quantization: str) -> Bench:
    """Alone, then six sessions at once."""
    target = await target_host("bfloat16", compile_mode=mode)
    draft = await started_host(
        folder, dtype="bfloat16", width=2, compile_mode=mode, quantization=quantization
    )
    engine = draft.engine
    assert engine.runner.layout.packed is (mode == "auto")
    assert engine.describe().known_tokens == KNOWN
    cases = own_cases()
    try:
        return await keep_promise(target, {KIND: draft}, cases, [cases[:6], cases[6:12]])
    finally:
        await draft.stop()


@needs_kernels
@pytest.mark.parametrize("quantization", ["none", "int8"])
async def test_tokens_are_the_targets_on_the_engines_own_kernels(
    cut_draft: Path, quantization: str
) -> None:
    """`keep_promise` asserts that more than one guess a sequence was right, too."""
    assert (await keep(cut_draft, "auto", quantization)).compared == 28


async def test_tokens_are_the_targets_on_torchs_kernels(cut_draft: Path) -> None:
    assert (await keep(cut_draft, "off", "none")).compared == 28
