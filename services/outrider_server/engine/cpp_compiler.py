"""The machine's C++ compiler, which makes the kernels and, through torch, the steps."""

from __future__ import annotations

import shutil

NO_COMPILER = "no C++ compiler was found; install g++"


def cpp_compiler() -> str:
    """Its path, or nothing where there is none."""
    return shutil.which("g++") or shutil.which("clang++") or ""
