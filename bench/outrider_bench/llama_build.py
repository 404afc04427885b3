"""A build of llama.cpp: where its server is, which CPU it was compiled for, and how that is pinned.

A build with GGML_CPU_ALL_VARIANTS has a file for each kind of CPU and loads the best one. Its server looks
for them beside itself, so a folder that holds one of them is pinned to it. Other builds are what they
are: what they say of themselves is compared with the level.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from outrider_server.core.errors import StartupError

from .cpu_level import LEVEL_FEATURES, PinnedLevel

BINARY = "llama-server"
VARIANTS = "libggml-cpu-*.so"
BUILD = "-DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON"
_FEATURE = re.compile(r"\b([A-Z][A-Z0-9_]+) = 1\b")


def find_binary(folder: Path) -> Path:
    """The server's binary in a folder, or its `bin`. Raises StartupError."""
    for path in (folder / BINARY, folder / "bin" / BINARY):
        if path.is_file() and os.access(path, os.X_OK):
            return path
    raise StartupError(f"{folder} holds no {BINARY}")


def pinned_binary(binary: Path, level: PinnedLevel, scratch: Path) -> Path:
    """A server for the level: in a folder made in `scratch` with one variant, or `binary` where it has none.

    Raises StartupError where there are variants, but not this one.
    """
    source = binary.parent
    variants = sorted(source.glob(VARIANTS))
    if not variants:
        return binary
    wanted = source / VARIANTS.replace("*", level.llama_variant)
    if wanted not in variants:
        raise StartupError(
            f"{source} has no {wanted.name}, which {level.name} needs: build with {BUILD}"
        )
    pinned = scratch / level.llama_variant
    pinned.mkdir()
    for path in source.glob("lib*.so*"):
        if path not in variants or path == wanted:
            (pinned / path.name).symlink_to(path.resolve())
    shutil.copy(binary, pinned / BINARY)  # it looks beside its own file, not beside a link to it
    return pinned / BINARY


def features(log: str) -> frozenset[str]:
    """What tells levels apart of what a server's log says it uses. Raises StartupError for a log without."""
    for line in log.splitlines():
        if "system_info:" in line:
            return LEVEL_FEATURES & frozenset(_FEATURE.findall(line))
    raise StartupError("llama.cpp does not say which instructions it uses")


def check_features(used: frozenset[str], level: PinnedLevel) -> None:
    """Raises StartupError for a server that uses other instructions than the level has."""
    if used != level.llama_features:
        raise StartupError(
            f"OUTRIDER_ISA is {level.name}, and llama.cpp uses {', '.join(sorted(used)) or 'none'} "
            f"instead of {', '.join(sorted(level.llama_features))}: build it with {BUILD}"
        )
