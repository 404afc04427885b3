"""The engine serves every architecture of the suite as the library would, and keeps the promise.

Float32, eager and recorded, runs for all; other settings run here for one architecture of each mechanism,
and for all by `python -m tests.conformance`, which writes docs/conformance.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from models_for_tests import needs_kernels
from transformers.utils import logging as library_logging

from .architectures import FROM_GGUF, SERVED, Architecture
from .outcome import Outcome, find_outcome
from .subject import Setting, save_model

EAGER = Setting("float32", "off")
LOW_PRECISION = Setting("bfloat16", "off")
RECORDED = Setting("float32", "on")
ONE_OF_EACH = ("Llama", "Gemma 2", "GPT-2", "Bloom", "MPT", "Falcon", "Falcon, ALiBi", "Qwen2-MoE")
BY_NAME = {architecture.name: architecture for architecture in SERVED}


@pytest.fixture(autouse=True)
def _quiet_and_alone() -> Iterator[None]:
    """One thread for tiny models, as the promise's tests; the library's progress bars off."""
    library_logging.disable_progress_bar()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


async def hold(architecture: Architecture, folder: Path, setting: Setting) -> Outcome:
    """Runs all checks and asserts each."""
    outcome = await find_outcome(architecture, save_model(architecture, folder), setting)
    assert outcome.error <= outcome.bound
    assert not outcome.greedy_differences
    assert outcome.promise.differences == 0
    assert outcome.promise.guessed > outcome.promise.sequences, "proposals must be accepted"
    assert not outcome.turns_differ
    return outcome


@pytest.mark.parametrize("architecture", SERVED, ids=lambda each: each.name)
async def test_an_architecture_is_served_as_the_library_would(
    architecture: Architecture, tmp_path: Path
) -> None:
    outcome = await hold(architecture, tmp_path, EAGER)
    assert outcome.greedy_differences == 0
    assert not outcome.packed


@pytest.mark.parametrize("name", ONE_OF_EACH)
async def test_an_architecture_is_served_in_bfloat16(name: str, tmp_path: Path) -> None:
    await hold(BY_NAME[name], tmp_path, LOW_PRECISION)


@needs_kernels
@pytest.mark.parametrize("architecture", SERVED, ids=lambda each: each.name)
async def test_every_architecture_is_recorded(architecture: Architecture, tmp_path: Path) -> None:
    outcome = await hold(architecture, tmp_path, RECORDED)
    assert outcome.packed, outcome.kernel_note
    assert outcome.greedy_differences == 0


@needs_kernels
@pytest.mark.parametrize("architecture", FROM_GGUF, ids=lambda each: each.name)
async def test_an_architecture_is_served_from_a_gguf_file(
    architecture: Architecture, tmp_path: Path
) -> None:
    outcome = await hold(architecture, tmp_path, Setting("float32", "on", is_gguf=True))
    assert outcome.packed, outcome.kernel_note
    assert outcome.greedy_differences == 0


@needs_kernels
@pytest.mark.parametrize("name", ONE_OF_EACH)
async def test_an_architecture_is_recorded_in_bfloat16(name: str, tmp_path: Path) -> None:
    assert (await hold(BY_NAME[name], tmp_path, Setting("bfloat16", "on"))).packed
