"""The engine's own CPU kernels: C++ beside this file, compiled once a machine and called by ctypes.

They need a C++ compiler, and a CPU of one of `levels.LEVELS`. Where either is missing the engine runs on
torch's kernels alone.
"""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass

import torch

from ...core.progress import Progress, Report, Stage
from ..cpp_compiler import NO_COMPILER, cpp_compiler
from .building import built_library, is_built, why_not_built
from .levels import LEVELS, chosen_level
from .library import kernel_library, load_kernel_library


def take_threads() -> None:
    """Gives torch's threads to the kernels, whose steps do not stand still for a thread without a core.

    Torch is left with one: its threads and the kernels' would compete.
    """
    kernel_library().set_threads(torch.get_num_threads())
    torch.set_num_threads(1)


def built_kernels_missing(tell: Progress) -> str:
    """As `kernels_missing`, and tells where the kernels are compiled first, which takes a while."""
    level, compiler = chosen_level(), cpp_compiler()
    if level is not None and compiler and not is_built(compiler, level):
        tell(Report(Stage.BUILDING))
    return kernels_missing()


def kernels_missing() -> str:
    """Loads the kernels, once a process; one sentence why there are none, or nothing.

    Raises StartupError where a level was named that cannot be.
    """
    return _loading().missing


def compiler_failure() -> str:
    """One sentence why nothing can be compiled on this machine; nothing where it can, or nobody has tried.

    Raises as `kernels_missing`.
    """
    if not cpp_compiler():
        return NO_COMPILER
    loading = _loading()
    return loading.missing if loading.compiler_failed else ""


@dataclass(frozen=True, slots=True)
class _Loading:
    """How loading the kernels went."""

    missing: str = ""
    compiler_failed: bool = False


@functools.cache
def _loading() -> _Loading:
    level, compiler = chosen_level(), cpp_compiler()
    if level is None:
        return _Loading(f"the CPU has none of {', '.join(each.name for each in LEVELS)}")
    if not compiler:
        return _Loading(NO_COMPILER)
    try:
        with built_library(compiler, level) as path:
            library = load_kernel_library(path)
    except (OSError, subprocess.SubprocessError) as error:
        missing = (
            f"the kernels could not be built ({why_not_built(error)}); mend that and start anew"
        )
        return _Loading(missing, compiler_failed=True)
    if library.level_name() != level.name:
        return _Loading(f"the C++ compiler does not know {level.name}")
    library.use_tile_unit(True)
    return _Loading()
