"""The kernels at a level: those of this process, or their arithmetic in a process of another level.

A process has the library of one level. The arithmetic needs no torch, so a small program holds it, compiled
for each level that this machine runs; another machine's runs under qemu.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import platform
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from outrider_server.engine.cpp_compiler import cpp_compiler
from outrider_server.engine.kernels import kernels_missing
from outrider_server.engine.kernels.building import FLAGS, FOLDER, HEADERS
from outrider_server.engine.kernels.levels import (
    LEVELS,
    Level,
    chosen_level,
    machine_levels,
)
from outrider_server.engine.kernels.library import kernel_library
from outrider_server.user_folders import cache_folder

EMULATED = ("aarch64",)
"""Machines whose levels qemu runs on others; of x86 it knows no AVX-512."""
SOURCES = (Path(__file__).parent / "kernel_driver.cpp", FOLDER / "pool.cpp")
NAME, THREADS, TILE_UNIT, PACK, LINEAR, ROWS, DRAW, MOST_PROBABLE = range(8)
CACHE, REMEMBER, RECALL, ATTEND = range(8, 12)
PACK_QUANTIZED, QUANTIZED = range(12, 14)


class Loaded:
    """The operators of this process, on its tile unit or on its vector unit. It has them as its own.

    `thrift`: of cases that are many and alike a test takes one in so many.
    """

    thrift = 1

    def __init__(self, unit: str) -> None:
        self.level = chosen_level()
        wanted = unit == "tile unit"
        if kernel_library().use_tile_unit(wanted) is not wanted:
            pytest.skip("Linux lends no tile unit")

    def __getattr__(self, name: str) -> Any:
        return getattr(kernel_library(), name)

    def close(self) -> None:
        kernel_library().use_tile_unit(True)


class Driven:
    """The arithmetic of a level, in a process of its own, as if it were the operators."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self.thrift = 4 if level.machine == platform.machine() else 20
        self._process = subprocess.Popen(
            driver(level), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.use_tile_unit(True)

    def close(self) -> None:
        with self._process as process:
            process.stdin.close()
        assert process.returncode == 0

    def level_name(self) -> str:
        return (
            bytes(self._ask(NAME, (), (), torch.empty(16, dtype=torch.uint8)))
            .rstrip(b"\0")
            .decode()
        )

    def use_tile_unit(self, wanted: bool) -> bool:
        return bool(self._ask(TILE_UNIT, (wanted,), (), torch.empty(1, dtype=torch.int64)))

    def set_threads(self, threads: int) -> None:
        self._send(THREADS, (threads,), ())

    def draw_sampled(self, logits: torch.Tensor, *columns: torch.Tensor) -> torch.Tensor:
        return self._ask(DRAW, logits.shape, (logits, *columns), torch.empty_like(columns[0]))

    def most_probable(self, logits: torch.Tensor, hidden: bool) -> torch.Tensor:
        best = torch.empty(len(logits), dtype=torch.int64)
        return self._ask(MOST_PROBABLE, (*logits.shape, hidden), (logits,), best)

    def _send(self, kind: int, sizes: tuple[int, ...], arrays: tuple[torch.Tensor, ...]) -> None:
        stdin = self._process.stdin
        stdin.write(struct.pack(f"<{1 + len(sizes)}q", kind, *sizes))
        for array in arrays:
            stdin.write(bytes_of(array.contiguous()))
        stdin.flush()

    def _ask(
        self,
        kind: int,
        sizes: tuple[int, ...],
        arrays: tuple[torch.Tensor, ...],
        answer: torch.Tensor,
    ) -> torch.Tensor:
        """The answer, which is of the size, kind and shape of the tensor that is given for it."""
        self._send(kind, sizes, arrays)
        read = self._process.stdout.readinto(bytes_of(answer))
        assert read == answer.nbytes, "the driver ended"
        return answer


class DrivenUnit(Driven):
    """The arithmetic of one of `DRIVEN_UNITS`."""

    def __init__(self, unit: str) -> None:
        super().__init__(next(level for level in LEVELS if level.name == unit.split(",")[0]))
        self.unit = unit
        self.use_tile_unit(unit != VECTOR_UNIT)


Operators = Loaded | Driven


def bytes_of(tensor: torch.Tensor) -> memoryview:
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())


def why_not_emulated(level: Level) -> str:
    """What is missing to run another machine's level here; nothing where all is there."""
    if level.machine not in EMULATED:
        return f"{level.name} is not emulated"
    missing = [what for what in (cross_compiler(level), emulator(level)) if not shutil.which(what)]
    return f"no {' and no '.join(missing)} was found" if missing else ""


def cross_compiler(level: Level) -> str:
    return f"{level.machine}-linux-gnu-g++"


def emulator(level: Level) -> str:
    name = f"qemu-{level.machine}"
    return name if shutil.which(name) else f"{name}-static"


def runs_here(level: Level) -> bool:
    if level.machine == platform.machine():
        return level in machine_levels()
    return not why_not_emulated(level)


@contextmanager
def one_at_a_time(program: Path) -> Iterator[None]:
    """Of the processes that run tests the second one waits for what the first one compiles."""
    with program.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def driver(level: Level) -> tuple[str, ...]:
    """The command that runs the program for a level, which is compiled once a machine."""
    native = level.machine == platform.machine()
    command = [cpp_compiler()] if native else [cross_compiler(level), "-static"]
    command += [*FLAGS, "-O2", *level.options, "-pthread", f"-I{FOLDER}", *map(str, SOURCES)]
    digest = hashlib.sha256(repr(command).encode())
    for source in (*SOURCES, *(FOLDER / name for name in HEADERS)):
        digest.update(source.read_bytes())
    program = cache_folder() / f"driver-{digest.hexdigest()[:24]}"
    program.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(program), tempfile.TemporaryDirectory(dir=program.parent) as scratch:
        if not program.is_file():
            made = Path(scratch) / program.name
            subprocess.run([*command, "-o", str(made)], check=True, capture_output=True)
            made.replace(program)
    return (str(program),) if native else (emulator(level), str(program))


LEVEL_NAMES = tuple(level.name for level in LEVELS if runs_here(level))
VECTOR_UNIT = "amx, vector unit"
DRIVEN_UNITS = (*LEVEL_NAMES, VECTOR_UNIT) if "amx" in LEVEL_NAMES else LEVEL_NAMES
"""Of all levels that run here, each in a process of its own."""
UNITS = ("tile unit", "vector unit") if chosen_level() == LEVELS[0] else ("vector unit",)
"""Of the operators of this process."""
OTHERS = {level.name: level for level in LEVELS if level != chosen_level() and runs_here(level)}
"""Levels that this process does not have, by name."""


def opened(name: str) -> Operators:
    """The operators on a unit, or the arithmetic of another level."""
    if missing := kernels_missing():
        pytest.skip(f"the engine's own kernels: {missing}")
    return Driven(OTHERS[name]) if name in OTHERS else Loaded(name)
