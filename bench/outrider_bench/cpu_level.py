"""The CPU level that OUTRIDER_ISA pins, in the words of each peer: none may use what Outrider may not."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from outrider_server.core.errors import StartupError


@dataclass(frozen=True, slots=True)
class PinnedLevel:
    """A level, and what limits each peer to it."""

    name: str
    llama_variant: str
    """The file of llama.cpp's CPU backend that is compiled for it: `libggml-cpu-VARIANT.so`."""
    llama_features: frozenset[str]
    """What a llama.cpp of this level says it uses, of `LEVEL_FEATURES`."""
    onednn: str
    """The most that oneDNN may use, for torch and OpenVINO."""
    torch: str
    """torch's own kernels."""
    multiplies_bfloat16: bool

    @property
    def variables(self) -> dict[str, str]:
        """For the environment of a peer in Python.

        torch's caches of compiled graphs do not tell one ATEN_CPU_CAPABILITY from another: a graph of the
        CPU's own level, compiled again for a narrower one, writes past its buffers.
        """
        return {
            "ONEDNN_MAX_CPU_ISA": self.onednn,
            "ATEN_CPU_CAPABILITY": self.torch,
            "TORCHINDUCTOR_FX_GRAPH_CACHE": "0",
            "TORCHINDUCTOR_AUTOGRAD_CACHE": "0",
        }


LEVEL_FEATURES = frozenset({"AVX2", "AVX512", "AVX512_VNNI", "AVX512_BF16", "AMX_INT8"})
"""What tells llama.cpp's levels apart, as its `system_info` names them."""
_AVX512 = frozenset({"AVX2", "AVX512"})
_VNNI = _AVX512 | {"AVX512_VNNI"}
_PRODUCTS = _VNNI | {"AVX512_BF16"}
_LEVELS = (
    PinnedLevel("avx2", "haswell", frozenset({"AVX2"}), "AVX2", "avx2", False),
    PinnedLevel("avx512", "skylakex", _AVX512, "AVX512_CORE", "avx512", False),
    PinnedLevel("avx512_vnni", "cascadelake", _VNNI, "AVX512_CORE_VNNI", "avx512", False),
    PinnedLevel("avx512_bf16", "cooperlake", _PRODUCTS, "AVX512_CORE_BF16", "avx512", True),
    PinnedLevel("amx", "sapphirerapids", LEVEL_FEATURES, "AVX512_CORE_AMX", "avx512", True),
)


def pinned_level(variables: Mapping[str, str] = os.environ) -> PinnedLevel | None:
    """The level that OUTRIDER_ISA names, None where it names none. Raises StartupError."""
    # torch comes with it, which the command starts without
    from outrider_server.engine.kernels.levels import VARIABLE, chosen_level

    if not variables.get(VARIABLE):
        return None
    level = chosen_level(variables)
    for pinned in _LEVELS:
        if level is not None and pinned.name == level.name:
            return pinned
    raise StartupError(f"peers cannot be pinned to {VARIABLE}={variables[VARIABLE]}: --no-peers")
