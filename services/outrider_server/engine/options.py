"""The options of an engine: a model and the static shapes around it, from the command line to the builder.

Checked when made. Imports nothing that loads a model.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import StartupError

DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "int8", "nf4", "fp4")
ATTENTIONS = ("auto", "packed", "sdpa", "flash", "math", "efficient", "eager", "flex")
MAX_RANKS = 64
SHARED_DEVICES = ("cpu", "cuda")
COMPILE_MODES = ("auto", "on", "max", "off")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise StartupError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """A model and the static shapes around it."""

    folder: Path
    """A local folder, or OWNER/NAME on a model hub."""
    dtype: str = "auto"
    """One of DTYPES; auto keeps the checkpoint's own."""
    device: str = "cpu"
    quantization: str = "none"
    """One of QUANTIZATIONS; none keeps what the checkpoint holds."""
    attention: str = "auto"
    """One of ATTENTIONS; auto takes the fastest that the machine has."""
    slots: int = 8
    rows: int = 8
    """The largest step holds this many times `width` tokens."""
    width: int = 8
    """Tokens a row: a window of width - 1 proposals and one more."""
    prefill_width: int = 64
    max_context_tokens: int = 0
    """0 takes what the model was made for."""
    compile: str = "auto"
    reproducible: bool = False
    park_bytes: int = 1 << 30
    """Host memory for the KV of sessions that gave up their slot; 0 drops it."""
    queue: int = 0
    """Turns that may wait for a slot."""
    threads: int = 0
    """CPU threads of the model; 0 takes every core."""
    tensor_parallel: int = 1
    """Ranks that share the model."""

    def __post_init__(self) -> None:
        _require(self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}")
        _require(
            self.quantization in QUANTIZATIONS,
            f"quantization must be one of {', '.join(QUANTIZATIONS)}",
        )
        _require(self.attention in ATTENTIONS, f"attention must be one of {', '.join(ATTENTIONS)}")
        _require(
            self.compile in COMPILE_MODES, f"compile must be one of {', '.join(COMPILE_MODES)}"
        )
        _require(1 <= self.slots <= 4096, "slots must be 1 to 4096")
        _require(1 <= self.rows <= self.slots, f"rows must be 1 to the {self.slots} slots")
        _require(1 <= self.width <= 64, "width must be 1 to 64")
        _require(
            self.prefill_width % 8 == 0 and 8 <= self.prefill_width <= 4096,
            "prefill width must be a multiple of 8, 8 to 4096",
        )
        _require(self.max_context_tokens >= 0, "max context tokens must not be negative")
        _require(self.park_bytes >= 0, "park memory must not be negative")
        _require(0 <= self.queue <= 1 << 16, "queue must be 0 to 65536")
        _require(self.threads >= 0, "threads must not be negative")
        _require(
            1 <= self.tensor_parallel <= MAX_RANKS, f"tensor parallel must be 1 to {MAX_RANKS}"
        )
        if self.tensor_parallel > 1:
            self._check_ranks()

    def _check_ranks(self) -> None:
        _require(
            self.device in SHARED_DEVICES,
            f"several ranks run on {' or '.join(SHARED_DEVICES)}, each on a device of its own, "
            f"not on {self.device}",
        )
        _require(
            self.quantization == "none",
            "quantized weights cannot be shared by several ranks; leave one of both options out",
        )

    @property
    def row_buckets(self) -> tuple[int, ...]:
        """Numbers of rows that a step may have, ascending: powers of four, and the most."""
        sizes = {self.rows}
        size = 1
        while size < self.rows:
            sizes.add(size)
            size *= 4
        return tuple(sorted(sizes))

    @property
    def thread_count(self) -> int:
        """CPU threads of the model; those of one rank where several share the cores."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.tensor_parallel)
