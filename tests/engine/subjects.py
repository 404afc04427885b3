"""Both kinds of runner, and what the logits of each are compared with.

Aligned rows in float32 are compared with the library's full forward pass. Packed rows are compared bit for
bit with the same tokens read from the start into a wiped slot of another runner; that these are the library's
too is for `test_forward_choice.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from models_for_tests import needs_kernels, packable_llama, packed_runner, tiny_llama, tiny_runner
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.layout import Row
from outrider_server.engine.step import StepRunner
from transformers import LlamaForCausalLM

LIBRARY = tiny_llama()
FRESH = packed_runner()
GREEDY = Draw(SamplingParams(temperature=0.0), 0, 0)


def library_logits(tokens: tuple[int, ...]) -> torch.Tensor:
    """The model's full forward pass with the library's attention and no cache, [T, V]."""
    with torch.no_grad():
        return LIBRARY(torch.tensor([tokens])).logits[0]


def fresh_logits(tokens: tuple[int, ...]) -> torch.Tensor:
    """The tokens read from the start, alone, in full rows, into a slot that holds nothing: [T, V]."""
    FRESH.forward.cache.wipe(0)
    parts = [Row(0, start, tokens[start : start + 8]) for start in range(0, len(tokens), 8)]
    return torch.cat([FRESH.logits([part], 1)[0].clone() for part in parts])


@dataclass(frozen=True)
class Subject:
    """A kind of runner and what its logits are compared with."""

    model: Callable[..., LlamaForCausalLM]
    make: Callable[..., StepRunner]
    runner: StepRunner
    wanted: Callable[[tuple[int, ...]], torch.Tensor]
    tolerance: float

    def check(self, got: torch.Tensor, wanted: torch.Tensor) -> None:
        torch.testing.assert_close(got, wanted, rtol=self.tolerance, atol=self.tolerance)


ALIGNED = Subject(tiny_llama, tiny_runner, tiny_runner(), library_logits, 1e-4)
PACKED = Subject(packable_llama, packed_runner, packed_runner(), fresh_logits, 0.0)
both = pytest.mark.parametrize(
    "subject",
    [pytest.param(ALIGNED, id="aligned"), pytest.param(PACKED, id="packed", marks=needs_kernels)],
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers in bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(torch.bfloat16)
