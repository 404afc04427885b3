"""The kernels' library: compiled once for a level of CPU, kept, and not believed once it is damaged.

It is looked for beside what is installed, where `outrider-server kernels` puts it, and in the user's cache
folder, where the first start does. Its name says its level and a digest of all that it is made of, so none is
taken for another. The digest of its own content follows that, so one that is cut short is made anew.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from ...core.errors import StartupError
from ...user_folders import cache_folder
from .levels import Level

FOLDER = Path(__file__).parent
SOURCES = {
    "slots.cpp": "-O3",
    "program.cpp": "-O3",
    "drawing.cpp": "-O3",
    "rows.cpp": "-O2",
    "library.cpp": "-O3",
    "pool.cpp": "-O3",
}
"""With how far the compiler goes. An inline function that several have is taken from the first of them."""
HEADERS = (
    "interface.h",
    "elements.h",
    "program.h",
    "row_operations.h",
    "functions.h",
    "linear.h",
    "weights.h",
    "quantized.h",
    "quantized_weights.h",
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
FLAGS = ("-std=c++20", "-ffp-contract=off", "-w", "-fPIC", "-fvisibility=hidden")
LIBRARY_FLAGS = ("-shared", "-pthread")
COMPILE_SECONDS = 300
SCRATCH = "compiling-"
NEEDED_BYTES = 16 << 20
"""Room for all that is compiled."""
DIGEST_BYTES = hashlib.sha256().digest_size


@contextmanager
def built_library(compiler: str, level: Level) -> Iterator[Path]:
    """The library for a level. It may be gone when this ends; what was loaded of it stays.

    Raises OSError or SubprocessError where it cannot be compiled.
    """
    with _place(_name(compiler, level)) as library:
        _make(compiler, level, library)
        try:
            yield library
        except OSError:
            library.unlink(missing_ok=True)  # whole, and yet no library
            raise


def install_library(compiler: str, level: Level) -> Path:
    """The library for a level beside what is installed or, where that cannot be written, in the user's cache.

    Raises OSError or SubprocessError where it cannot be compiled or kept, StartupError for a user without
    a home.
    """
    library = installed_folder() / _name(compiler, level)
    if not _is_whole(library) and _why_not_written(library.parent):
        library = cache_folder() / library.name
    _make(compiler, level, library)
    return library


def is_built(compiler: str, level: Level) -> bool:
    """Whether the library for a level is there."""
    name = _name(compiler, level)
    try:
        return any(_is_whole(folder / name) for folder in (installed_folder(), cache_folder()))
    except StartupError:
        return _is_whole(installed_folder() / name)


def installed_folder() -> Path:
    """Beside what is installed: of an environment, or of all users of a machine."""
    return Path(sysconfig.get_path("data")) / "share" / "outrider"


def _make(compiler: str, level: Level, library: Path) -> None:
    """Compiles the library where it is not there yet."""
    if _is_whole(library):
        return
    library.parent.mkdir(parents=True, exist_ok=True)
    with _one_at_a_time(library.parent), _scratch(library.parent) as scratch:
        made = scratch / library.name
        if not _is_whole(library):
            compile_library(compiler, level, [FOLDER / name for name in SOURCES], made)
            made.write_bytes(_sealed(made.read_bytes()))
            made.replace(library)


def _sealed(content: bytes) -> bytes:
    """A library with the digest of its content behind it, where loaders do not look."""
    return content + hashlib.sha256(content).digest()


def _is_whole(library: Path) -> bool:
    """Whether a library is there as it was written."""
    try:
        written = library.read_bytes()
    except OSError:
        return False
    return len(written) > DIGEST_BYTES and written == _sealed(written[:-DIGEST_BYTES])


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder in it to compile in, and the only one: nobody else is at work, who left one was killed."""
    for left in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH) as scratch:
        yield Path(scratch)


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
        _run([*command, SOURCES[source.name], "-c", str(source), "-o", str(made)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, sources, objects))
    _run([compiler, *LIBRARY_FLAGS, *map(str, objects), "-o", str(library)])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)


@contextmanager
def _place(name: str) -> Iterator[Path]:
    """Where a library is, or is to be: in the user's cache folder or, where it cannot be kept, with this."""
    installed = installed_folder() / name
    if _is_whole(installed):
        yield installed
    elif not (reason := _why_not_kept(name)):
        yield cache_folder() / name
    else:
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
    why = "" if _is_whole(folder / name) else _why_not_written(folder)
    return f"{folder} cannot be written ({why}); set XDG_CACHE_HOME" if why else ""


def _why_not_written(folder: Path) -> str:
    """Why nothing can be compiled in a folder, as the system says it; nothing where it can."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        left = shutil.disk_usage(folder).free
    except OSError as error:
        return error.strerror or str(error)
    return "" if left >= NEEDED_BYTES else f"less than {NEEDED_BYTES >> 20} MiB are free"


def why_not_built(error: OSError | subprocess.SubprocessError) -> str:
    """What went wrong, in a few words: the compiler's own where it says something."""
    if isinstance(error, subprocess.CalledProcessError):
        said = (error.stderr or b"").decode(errors="replace").splitlines()
        errors = [line for line in said if "error" in line.lower()]
        first = next(iter(errors or said), f"exit status {error.returncode}")
        return f"{error.cmd[0]}: {first.strip()}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{error.cmd[0]} took more than {COMPILE_SECONDS} s"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _name(compiler: str, level: Level) -> str:
    return f"kernels-{level.name}-{_digest(compiler, level)}.so"


def _digest(compiler: str, level: Level) -> str:
    made_of = (compiler, SOURCES, FLAGS, LIBRARY_FLAGS, level.name, level.options)
    digest = hashlib.sha256(repr(made_of).encode())
    for name in (*SOURCES, *HEADERS):
        digest.update((FOLDER / name).read_bytes())
    return digest.hexdigest()[:24]
