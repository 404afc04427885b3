"""The command `outrider-server kernels`: compiles what a first start would. Imports the rest when it runs."""

from __future__ import annotations

import subprocess
from typing import Annotated

import typer

from ..core.errors import StartupError


def kernels(
    all_levels: Annotated[
        bool,
        typer.Option(
            "--all-levels", help="For every CPU of this type, as an image's machine may be another."
        ),
    ] = False,
) -> None:
    """Compile the engine's own kernels, so that no start has to."""
    from ..engine.cpp_compiler import NO_COMPILER, cpp_compiler
    from ..engine.kernels.building import install_library, why_not_built
    from ..engine.kernels.levels import chosen_level, levels_alike

    level, compiler = chosen_level(), cpp_compiler()
    levels = levels_alike() if all_levels else (level,) if level else ()
    if not levels:
        raise _refusal("the kernels have no level for this CPU")
    if not compiler:
        raise _refusal(NO_COMPILER)
    for each in levels:
        try:
            print(f"{each.name}: {install_library(compiler, each)}")
        except (OSError, subprocess.SubprocessError) as error:
            raise _refusal(
                f"the kernels of level {each.name} could not be built: {why_not_built(error)}"
            ) from error


def _refusal(reason: str) -> StartupError:
    return StartupError(f"steps run on torch's kernels, which is slower: {reason}")
