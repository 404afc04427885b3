"""The kernels of this process: that they are there, at the level they say, and for callers at once."""

from __future__ import annotations

import platform
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from models_for_tests import needs_kernels
from outrider_server.engine.cpp_compiler import NO_COMPILER
from outrider_server.engine.kernels import kernels_missing
from outrider_server.engine.kernels.levels import LEVELS
from outrider_server.engine.kernels.library import kernel_library
from outrider_server.engine.model.quantized_weights import QuantizedWeight
from outrider_server.engine.program.weights import packed_quantized

from .kernel_levels import EMULATED, OTHERS, Operators, why_not_emulated
from .products import multiply
from .subjects import random

BUILT_OR_IMPOSSIBLE = {
    "",
    NO_COMPILER,
    f"the CPU has none of {', '.join(level.name for level in LEVELS)}",
}


def test_the_kernels_are_there_wherever_they_can_be() -> None:
    """All else here would be skipped where they could not be built, and say so only in the reason."""
    assert kernels_missing() in BUILT_OR_IMPOSSIBLE


def test_the_kernels_of_another_machine_run_here_too() -> None:
    """They are left out without a word below, so here it is said what is missing."""
    for level in LEVELS:
        if level.machine in EMULATED and level.machine != platform.machine():
            if missing := why_not_emulated(level):
                pytest.skip(missing)
            assert level.name in OTHERS


@needs_kernels
def test_the_compiler_knows_a_level_by_its_name(operators: Operators) -> None:
    assert operators.level_name() == operators.level.name


@needs_kernels
def test_callers_at_once_get_their_own_products() -> None:
    """One of them has the helpers, the others work alone; the number of helpers changes meanwhile."""
    weight = torch.randint(-127, 128, (1290, 64), generator=torch.Generator().manual_seed(1))
    layer = packed_quantized(QuantizedWeight(weight.to(torch.int8), torch.ones((1290, 1))), None)
    asked = [random(tokens, 64, seed=tokens) for tokens in range(1, 9)]
    wanted = [multiply(layer, x) for x in asked]

    def call(index: int) -> bool:
        kernel_library().set_threads(1 + index % 4)
        return torch.equal(multiply(layer, asked[index % 8]), wanted[index % 8])

    with ThreadPoolExecutor(3) as callers:
        assert all(callers.map(call, range(300)))
