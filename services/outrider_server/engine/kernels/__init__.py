"""The engine's own CPU kernels: C++ beside this file, compiled once a machine and loaded as torch operators.

They need a C++ compiler, and a CPU of one of `levels.LEVELS`. Where either is missing the engine runs on
torch's kernels alone.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from ..cpp_compiler import NO_COMPILER, cpp_compiler
from .building import built_library, is_built
from .levels import LEVELS, chosen_level

Function = TypeVar("Function", bound=Callable[..., torch.Tensor])


def take_threads() -> None:
    """Gives torch's threads to the kernels, whose steps do not stand still for a thread without a core.

    Torch is left with one: its threads and the kernels' would compete.
    """
    torch.ops.outrider.set_threads.default(torch.get_num_threads())
    torch.set_num_threads(1)


def kernels_to_build() -> bool:
    """True where asking for the kernels would compile them first, which takes a while."""
    level, compiler = chosen_level(), cpp_compiler()
    return level is not None and bool(compiler) and not is_built(compiler, level)


@functools.cache
def kernels_missing() -> str:
    """Loads the kernels, once a process; one sentence why there are none, or nothing.

    Raises StartupError where a level was named that cannot be.
    """
    level = chosen_level()
    if level is None:
        return f"the CPU has none of {', '.join(each.name for each in LEVELS)}"
    compiler = cpp_compiler()
    if not compiler:
        return NO_COMPILER
    load: Callable[[Path], None] = torch.ops.load_library
    try:
        with built_library(compiler, level) as library:
            load(library)
    except (OSError, subprocess.SubprocessError) as error:
        return f"the kernels could not be built ({type(error).__name__})"
    if torch.ops.outrider.kernel_level() != level.name:
        return f"the C++ compiler does not know {level.name}"
    torch.ops.outrider.use_tile_unit.default(True)
    _describe_shapes()
    return ""


def _describe_shapes() -> None:
    """Tells torch's compiler what the operators return."""
    describe: Callable[[str], Callable[[Function], Function]] = torch.library.register_fake

    @describe("outrider::packed_linear")
    def _linear(
        tokens: torch.Tensor,
        packed: torch.Tensor,
        bias: torch.Tensor | None,
        outputs: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        return tokens.new_empty((*tokens.shape[:-1], outputs), dtype=dtype)

    @describe("outrider::quantized_linear")
    def _quantized(
        tokens: torch.Tensor,
        packed: torch.Tensor,
        scales: torch.Tensor,
        codes: torch.Tensor | None,
        bias: torch.Tensor | None,
        outputs: int,
    ) -> torch.Tensor:
        return tokens.new_empty((*tokens.shape[:-1], outputs))

    @describe("outrider::packed_attention")
    def _attention(
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        places: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        _, heads, tokens, head_dim = query.shape
        return query.new_empty((1, tokens, heads, head_dim))

    @describe("outrider::most_probable")
    def _most_probable(logits: torch.Tensor, hidden: bool) -> torch.Tensor:
        return logits.new_empty(logits.shape[:1], dtype=torch.int64)

    @describe("outrider::draw_sampled")
    def _draw(
        logits: torch.Tensor,
        best: torch.Tensor,
        slots: torch.Tensor,
        positions: torch.Tensor,
        *draws: torch.Tensor,
    ) -> torch.Tensor:
        return torch.empty_like(best)
