"""The engine serves every architecture of the suite as the library would, and keeps the promise.

Eager float32 runs for all; other settings run here for one architecture of each mechanism, and for all by
`python -m tests.conformance`, which writes docs/conformance.md.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from outrider_server.engine.kernels import kernels_missing
from transformers.utils import logging as library_logging

from .architectures import SERVED, Architecture
from .outcome import Outcome, find_outcome
from .subject import Setting, save_model

EAGER = Setting("float32", "off")
LOW_PRECISION = Setting("bfloat16", "off")
ONE_OF_EACH = ("Llama", "Gemma 2", "GPT-2", "Bloom", "MPT", "Falcon", "Falcon, ALiBi", "Qwen2-MoE")
COMPILED = (
    ("Llama", "bfloat16"),
    ("Gemma 2", "float32"),
    ("Bloom", "float32"),
    ("Mixtral", "float32"),
)
INSTANTIATED = "ignore:.*should not be instantiated:DeprecationWarning"
"""Bloom's activation is an autograd function, of which torch's compiler makes an instance of its own."""
BY_NAME = {architecture.name: architecture for architecture in SERVED}
NO_COMPILER = not (shutil.which("g++") or shutil.which("clang++"))


@pytest.fixture(autouse=True)
def _quiet_and_alone() -> Iterator[None]:
    """One thread for tiny models, as the promise's tests; the library's progress bars off."""
    library_logging.disable_progress_bar()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    torch.compiler.reset()


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


@pytest.mark.skipif(NO_COMPILER, reason="no C++ compiler is installed")
@pytest.mark.filterwarnings(INSTANTIATED)
@pytest.mark.parametrize(("name", "dtype"), COMPILED)
async def test_an_architecture_is_served_compiled(name: str, dtype: str, tmp_path: Path) -> None:
    outcome = await hold(BY_NAME[name], tmp_path, Setting(dtype, "on"))
    assert not outcome.compile_note
    assert outcome.packed == (name == "Llama" and not kernels_missing())
