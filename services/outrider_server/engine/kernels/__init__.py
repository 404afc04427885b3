"""The engine's own CPU kernels: C++ beside this file, compiled once a machine and loaded as torch operators.

They need a C++ compiler, and a CPU of one of `levels.LEVELS`. Where either is missing the engine runs on
torch's kernels alone.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from ...core.errors import StartupError
from ...user_folders import cache_folder
from .levels import LEVELS, Level, chosen_level

SOURCES = ("linear.cpp", "attention.cpp", "drawing.cpp")
HEADERS = ("linear.h", "attention.h", "drawing.h", "bfloat16.h", "vectors.h", "pool.h")
FLAGS = ("-std=c++20", "-O3", "-ffp-contract=off", "-shared", "-fPIC", "-fvisibility=hidden", "-w")
COMPILE_SECONDS = 300

Function = TypeVar("Function", bound=Callable[..., torch.Tensor])


def take_threads() -> None:
    """Gives torch's threads to the kernels, whose steps do not stand still for a thread without a core.

    Torch is left with one: its threads and the kernels' would compete.
    """
    torch.ops.outrider.set_threads.default(torch.get_num_threads())
    torch.set_num_threads(1)


@functools.cache
def kernels_missing() -> str:
    """Compiles and loads the kernels, once a process; one sentence why there are none, or nothing."""
    level = chosen_level()
    if level is None:
        return f"the CPU has none of {', '.join(each.name for each in LEVELS)}"
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "no C++ compiler was found"
    folder = Path(__file__).parent
    sources = [folder / name for name in SOURCES]
    digest = hashlib.sha256(
        f"{torch.__version__} {compiler} {FLAGS} {level.name} {level.options}".encode()
    )
    for source in (*sources, *(folder / name for name in HEADERS)):
        digest.update(source.read_bytes())
    load: Callable[[Path], None] = torch.ops.load_library
    try:
        library = _compiled(compiler, level, sources, digest.hexdigest()[:24])
        load(library)
    except StartupError as error:
        return str(error)
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
        tokens: torch.Tensor, packed: torch.Tensor, bias: torch.Tensor | None, outputs: int
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

    @describe("outrider::draw_sampled")
    def _draw(
        logits: torch.Tensor,
        best: torch.Tensor,
        temperatures: torch.Tensor,
        seeds: torch.Tensor,
        positions: torch.Tensor,
    ) -> torch.Tensor:
        return torch.empty_like(best)


def _compiled(compiler: str, level: Level, sources: list[Path], digest: str) -> Path:
    """The shared library, from the cache or compiled into it. Raises OSError or SubprocessError."""
    library = cache_folder() / f"kernels-{digest}.so"
    if library.is_file():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    torch_folder = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        made = Path(scratch) / library.name
        command = [
            compiler,
            *FLAGS,
            *level.options,
            f"-I{torch_folder / 'include'}",
            *map(str, sources),
        ]
        command += ["-o", str(made), f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
        subprocess.run(command, check=True, capture_output=True, timeout=COMPILE_SECONDS)
        made.replace(library)
    return library
