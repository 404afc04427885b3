"""The real llama.cpp and OpenVINO, where variables name them: every mode answers, on the same weights.

OUTRIDER_TEST_LLAMA_CPP is a folder with `llama-server`, OUTRIDER_TEST_OPENVINO_PYTHON a Python with
openvino-genai.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from outrider_bench import model_cache
from outrider_bench.models import Models
from outrider_bench.peer_options import PeerOptions
from outrider_bench.peers import running_peers
from outrider_bench.prompts import Prompts
from outrider_bench.results import common_start
from outrider_bench.tasks import System, Task
from outrider_bench.weights import weights_of
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER

LLAMA_CPP = os.environ.get("OUTRIDER_TEST_LLAMA_CPP")
OPENVINO = os.environ.get("OUTRIDER_TEST_OPENVINO_PYTHON")
MODELS = Models(TARGET_FOLDER, DRAFT_FOLDER, "the bundled pair")
PLAIN = "transformers plain"
TOKENS = 24
ALIKE = 8
"""Greedy tokens that all agree on; later they may part at a near-tie, which they round otherwise."""

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not (LLAMA_CPP or OPENVINO),
        reason="OUTRIDER_TEST_LLAMA_CPP and OUTRIDER_TEST_OPENVINO_PYTHON name no peers",
    ),
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert model_cache.cache_folder().is_relative_to(tmp_path)


def options(bits: int) -> PeerOptions:
    """All the peers that are there."""
    return PeerOptions(
        weights_of(bits),
        llama_cpp=Path(LLAMA_CPP) if LLAMA_CPP else None,
        openvino_python=Path(OPENVINO) if OPENVINO else None,
    )


async def replies(bits: int, task: Task) -> dict[str, tuple[int, ...]]:
    """What every setting of every peer but the co-located pair says."""
    found: dict[str, tuple[int, ...]] = {}
    async with running_peers(options(bits), MODELS, 512, print, colocated=False) as peers:
        every: list[System] = [system for peer in peers for system in peer.settings]
        for system in every:
            outcome = await system.run(task)
            assert outcome.seconds > 0
            found[system.name] = min(
                found.get(system.name, outcome.tokens), outcome.tokens, key=len
            )
    return found


def asked(temperature: float, chat: bool = False) -> Task:
    """A bundled prompt."""
    _, prompt = Prompts.of(TARGET_FOLDER).take()
    return Task("text", prompt, TOKENS, temperature, 1, chat)


@pytest.mark.parametrize("bits", [16, 8, 4])
async def test_greedy_peers_begin_alike_on_the_same_weights(bits: int) -> None:
    found = await replies(bits, asked(0.0))
    assert {len(tokens) for tokens in found.values()} == {TOKENS}
    apart = {name for name, tokens in found.items() if common_start(tokens, found[PLAIN]) < ALIKE}
    if bits > 4:  # nf4 and Q4_0 are other weights
        assert apart == set()


async def test_draws_and_chats_are_answered_in_every_mode() -> None:
    found = await replies(16, asked(0.7))
    assert {len(tokens) for tokens in found.values()} == {TOKENS}
    found = await replies(16, asked(0.7, chat=True))
    assert all(0 < len(tokens) <= TOKENS for tokens in found.values())


async def test_peers_are_pinned_to_a_lower_level(monkeypatch: pytest.MonkeyPatch) -> None:
    """A llama.cpp that used more would be refused when it starts."""
    monkeypatch.setenv("OUTRIDER_ISA", "avx2")
    found = await replies(16, asked(0.0))
    assert {len(tokens) for tokens in found.values()} == {TOKENS}
