"""The kernels' library: compiled once a machine for a level of CPU, and kept in the user's cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import StartupError
from ...user_folders import cache_folder
from .levels import Level

FOLDER = Path(__file__).parent
SOURCES = ("slots.cpp", "program.cpp", "rows.cpp", "drawing.cpp", "pool.cpp", "library.cpp")
"""Those first that take longest to compile."""
HEADERS = (
    "interface.h",
    "elements.h",
    "program.h",
    "row_operations.h",
    "functions.h",
    "linear.h",
    "weights.h",
    "quantized.h",
    "tokens.h",
    "slot_attention.h",
    "slot_cache.h",
    "slot_products.h",
    "slot_softmax.h",
    "slot_tiles.h",
    "drawing.h",
    "filters.h",
    "bfloat16.h",
    "float16.h",
    "integers.h",
    "vectors.h",
    "pool.h",
)
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=off", "-w", "-fPIC", "-fvisibility=hidden")
LIBRARY_FLAGS = ("-shared", "-pthread")
COMPILE_SECONDS = 300


@contextmanager
def built_library(compiler: str, level: Level) -> Iterator[Path]:
    """The library for a level. It may be gone when this ends; what was loaded of it stays.

    Raises OSError or SubprocessError where it cannot be compiled.
    """
    sources = [FOLDER / name for name in SOURCES]
    with _place(_name(compiler, level)) as library:
        if not library.is_file():
            with (
                _one_at_a_time(library.parent),
                tempfile.TemporaryDirectory(dir=library.parent) as scratch,
            ):
                made = Path(scratch) / library.name
                if not library.is_file():
                    compile_library(compiler, level, sources, made)
                    made.replace(library)
        yield library


def is_built(compiler: str, level: Level) -> bool:
    """Whether the user's cache folder has the library for a level."""
    try:
        return (cache_folder() / _name(compiler, level)).is_file()
    except StartupError:
        return False


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Target and draft start together: the second one waits for what the first one compiles."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def compile_library(compiler: str, level: Level, sources: list[Path], library: Path) -> None:
    """Compiles as many sources at once as there are cores.

    Raises OSError or SubprocessError where one of them cannot be compiled.
    """
    command = [compiler, *FLAGS, *level.options]
    objects = [library.with_name(f"{source.stem}.o") for source in sources]

    def compile_one(source: Path, made: Path) -> None:
        _run([*command, "-c", str(source), "-o", str(made)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    _run([compiler, *LIBRARY_FLAGS, *map(str, objects), "-o", str(library)])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)


@contextmanager
def _place(name: str) -> Iterator[Path]:
    """A file of the user's cache folder, or, where it cannot be kept there, one that goes with this."""
    if not (reason := _why_not_kept(name)):
        yield cache_folder() / name
        return
    told = f"outrider: every start compiles the kernels anew: {reason}"
    print(told, file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        yield Path(scratch) / name


def _why_not_kept(name: str) -> str:
    """One sentence why the user's cache folder can have no such file; nothing where it has it, or can."""
    try:
        folder = cache_folder()
    except StartupError as error:
        return str(error)
    if (folder / name).is_file():
        return ""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror}); set XDG_CACHE_HOME"
    return ""


def _name(compiler: str, level: Level) -> str:
    return f"kernels-{_digest(compiler, level)}.so"


def _digest(compiler: str, level: Level) -> str:
    made_of = (compiler, FLAGS, LIBRARY_FLAGS, level.name, level.options)
    digest = hashlib.sha256(repr(made_of).encode())
    for name in (*SOURCES, *HEADERS):
        digest.update((FOLDER / name).read_bytes())
    return digest.hexdigest()[:24]
