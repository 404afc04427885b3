"""Levels of CPUs that the kernels are compiled for: which one this machine has, or is told to use."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from ...core.errors import StartupError
from ...cpu import cpu_flags

VARIABLE = "OUTRIDER_ISA"
"""Names a level below the machine's, for tests and measurements."""


@dataclass(frozen=True, slots=True)
class Level:
    """Instructions that a CPU has, and the compiler's options that use them."""

    name: str
    machine: str
    flags: frozenset[str]
    """As Linux names them in /proc/cpuinfo."""
    options: tuple[str, ...]


_AVX2 = frozenset({"avx2", "fma", "abm", "bmi1", "bmi2", "f16c", "movbe"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_VNNI = _AVX512 | {"avx512_vnni"}
_BF16 = _VNNI | {"avx512_bf16"}
_AMX = _BF16 | {"amx_tile", "amx_bf16"}
_V4 = "-march=x86-64-v4"
_PRODUCTS = (_V4, "-mavx512bf16", "-mavx512vnni")

LEVELS = (
    Level("amx", "x86_64", _AMX, (*_PRODUCTS, "-mamx-tile", "-mamx-bf16")),
    Level("avx512_bf16", "x86_64", _BF16, _PRODUCTS),
    Level("avx512_vnni", "x86_64", _VNNI, (_V4, "-mavx512vnni")),
    Level("avx512", "x86_64", _AVX512, (_V4,)),
    Level("avx2", "x86_64", _AVX2, ("-march=x86-64-v3",)),
    Level("neon", "aarch64", frozenset({"asimd"}), ("-march=armv8-a",)),
)
"""Best first."""


def chosen_level(variables: Mapping[str, str] = os.environ) -> Level | None:
    """The best level of this machine, or the one that OUTRIDER_ISA names; None where it has none.

    Raises StartupError for a name that is no level, and for a level that the CPU lacks.
    """
    had = machine_levels()
    wanted = variables.get(VARIABLE, "")
    if not wanted:
        return had[0] if had else None
    known = ", ".join(level.name for level in LEVELS)
    if wanted not in known.split(", "):
        raise StartupError(f"{VARIABLE} is {wanted}, and must be one of {known}")
    for level in had:
        if level.name == wanted:
            return level
    here = ", ".join(level.name for level in had) or "none of them"
    raise StartupError(f"{VARIABLE} is {wanted}, which this CPU has not; it has {here}")


def machine_levels() -> tuple[Level, ...]:
    """The levels that this machine has, best first."""
    flags = cpu_flags()
    return tuple(level for level in levels_alike() if level.flags <= flags)


def levels_alike() -> tuple[Level, ...]:
    """The levels that some machine of this type has, best first."""
    return tuple(level for level in LEVELS if level.machine == platform.machine())
