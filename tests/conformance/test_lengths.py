"""Scaled rotary embeddings give the library's own tokens, in and beyond the context before the scaling.

The library is a fresh copy of the model for every reply: of one model it keeps the frequencies of the longest
context that it has read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from copy import deepcopy
from functools import partial

import pytest
import torch
from models_for_tests import loaded, park_all
from outrider_server.engine.engine import Engine
from outrider_server.engine.limits import StepLimits
from outrider_server.host.engine_host import EngineHost
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    LlamaConfig,
    Phi3Config,
    PhimoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

from .architectures import EXPERTS, GATED
from .checks import GREEDY, NEW_TOKENS, Case, library_greedy, tell
from .subject import sample_tokens

ORIGINAL = 64
FACTOR = 4.0
LONGEST = 256
LIMITS = StepLimits(4, LONGEST, width=8, prefill_width=16, row_buckets=(4,))
LENGTHS = (40, ORIGINAL - NEW_TOKENS // 2, ORIGINAL + 1, LONGEST - NEW_TOKENS)
"""Prompts: below the border, crossing it with the reply, beyond it, and at four times of it."""
INPUTS = (25, 20, 70)
"""Of three turns, whose second one crosses the border with its reply."""
HALF_HEAD = 16
FACTORS: dict[str, object] = {
    "short_factor": [1.0 + 0.02 * place for place in range(HALF_HEAD)],
    "long_factor": [2.0 + 0.4 * place for place in range(HALF_HEAD)],
}
BANDS: dict[str, object] = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALES: dict[str, object] = {"short_mscale": 1.1, "long_mscale": 1.4}
BEFORE: dict[str, object] = {"original_max_position_embeddings": ORIGINAL}
NAMES_ORIGINAL: dict[str, object] = {"max_position_embeddings": ORIGINAL}


def scaled(
    make: type[PreTrainedConfig], kind: str, *parameters: dict[str, object], **changes: object
) -> PreTrainedConfig:
    rope: dict[str, object] = {"rope_type": kind, "rope_theta": 10000.0, "factor": FACTOR}
    for some in parameters:
        rope |= some
    return make(**(GATED | changes | {"rope_parameters": rope}))


MODELS = {
    "linear": lambda: scaled(LlamaConfig, "linear", **NAMES_ORIGINAL),
    "llama3": lambda: scaled(LlamaConfig, "llama3", BEFORE, BANDS),
    "yarn": lambda: scaled(LlamaConfig, "yarn", BEFORE, **NAMES_ORIGINAL),
    "dynamic": lambda: scaled(LlamaConfig, "dynamic", **NAMES_ORIGINAL),
    "dynamic, pairs": lambda: scaled(CohereConfig, "dynamic", **NAMES_ORIGINAL),
    "longrope": lambda: scaled(LlamaConfig, "longrope", BEFORE, FACTORS),
    "longrope, Phi-3": lambda: scaled(Phi3Config, "longrope", FACTORS, **BEFORE),
    "longrope, Phi-MoE": lambda: scaled(
        PhimoeConfig, "longrope", BEFORE, FACTORS, SCALES, **EXPERTS, num_local_experts=4
    ),
}


class Subject:
    """A model in service, and the library's."""

    def __init__(self, library: PreTrainedModel, host: EngineHost) -> None:
        self.library = library
        self.host = host
        self._replies: dict[tuple[int, ...], tuple[int, ...]] = {}

    @classmethod
    async def of(cls, library: PreTrainedModel) -> Subject:
        """Serves a copy of the library's model."""
        served = loaded(deepcopy(library))
        build = partial(Engine, served, LIMITS, "off", park_bytes=1 << 22)
        return cls(library, await EngineHost.started(build))

    def wanted(self, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """The library's reply."""
        if tokens not in self._replies:
            self._replies[tokens] = library_greedy(deepcopy(self.library), tokens)
        return self._replies[tokens]

    async def told(self, tokens: tuple[int, ...], session: str = "", window: int = 7) -> bool:
        """Whether the engine's reply is the library's; with a window an often right draft proposes."""
        wanted = self.wanted(tokens)
        kind = "often right" if window else "none"
        told = await tell(self.host, Case(tokens, GREEDY, window, kind), wanted, session)
        return told.tokens == wanted


@pytest.fixture(params=MODELS, scope="module")
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(7)
    library = AutoModelForCausalLM.from_config(MODELS[request.param]()).eval()
    made = asyncio.run(Subject.of(library))
    yield made
    asyncio.run(made.host.stop())
    torch.set_num_threads(before)


def prompt(length: int) -> tuple[int, ...]:
    return sample_tokens(length, length)


async def test_a_context_of_any_length_gets_the_librarys_tokens(subject: Subject) -> None:
    for length in reversed(LENGTHS):
        for window in (0, 7):
            assert await subject.told(prompt(length), window=window), (length, window)


async def test_neighbours_of_other_lengths_change_nothing(subject: Subject) -> None:
    right = await asyncio.gather(*(subject.told(prompt(length)) for length in LENGTHS))
    assert right == [True] * len(LENGTHS)


async def test_three_turns_and_a_way_back_get_the_librarys_tokens(subject: Subject) -> None:
    context: tuple[int, ...] = ()
    for number, length in enumerate(INPUTS):
        context += sample_tokens(70 + number, length)
        assert await subject.told(context, "turns"), number
        context += subject.wanted(context)
    assert len(context) > 2 * ORIGINAL
    await subject.host.device.call(park_all)
    for kept in (ORIGINAL + 10, ORIGINAL - 30):
        assert await subject.told(context[:kept], "turns"), kept
    await subject.host.fork("turns", "copy", ORIGINAL, 1)
    assert await subject.told(context[: ORIGINAL + 1], "copy")


async def test_the_audit_finds_no_difference_across_the_border(subject: Subject) -> None:
    audit = subject.host.engine.audit
    assert [finding.variation for finding in audit.findings if not finding.identical] == []
    depends = subject.host.engine.runner.length_rule.border < LONGEST
    assert depends == any("across" in finding.variation for finding in audit.findings)
