"""The options of an engine: a model and the static shapes around it, from the command line to the builder.

Checked when made. Imports nothing that loads a model. What an option means is said once, beside its type:
the command line takes its options, their defaults and their help from here.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from ..core.errors import require

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "int8", "nf4", "fp4"]
Attention = Literal["auto", "packed", "sdpa", "flash", "math", "efficient", "eager", "flex"]
CompileMode = Literal["auto", "on", "off"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
ATTENTIONS: tuple[Attention, ...] = get_args(Attention)
COMPILE_MODES: tuple[CompileMode, ...] = get_args(CompileMode)
MAX_RANKS = 64
MAX_THREADS = 1024
SHARED_DEVICES = ("cpu", "cuda")
DEVICE = re.compile(r"(?:cpu|cuda|hpu|mps|mtia|npu|xla|xpu)(?::\d{1,3})?")
"""What torch may know as a device; whether this machine has it shows once torch is loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """A model and the static shapes around it. Raises StartupError for what no engine can be."""

    folder: Annotated[Path, "Folder of the model, its GGUF file, or its name on a hub."]
    dtype: Annotated[Dtype, "auto keeps the checkpoint's own."] = "auto"
    device: Annotated[str, "A torch device, for example cpu or cuda:0."] = "cpu"
    quantization: Annotated[
        Quantization, "Quantize the weights; none keeps what the checkpoint holds."
    ] = "none"
    attention: Annotated[
        Attention, "Attention kernel; auto takes the fastest that this machine has."
    ] = "auto"
    slots: Annotated[int, "Sessions whose KV state is kept."] = 8
    park_bytes: Annotated[
        int, "Host memory for sessions without a slot, for example 4GiB; 0 for none."
    ] = 1 << 30
    queue: Annotated[int, "Turns that may wait for a slot; more are refused."] = 0
    rows: Annotated[int, "A step holds so many full rows; 0 takes the slots."] = 0
    width: Annotated[int, "Tokens a row of a verify step; a multiple of 8."] = 8
    prefill_width: Annotated[int, "Tokens a prefill step; a multiple of 8."] = 64
    max_context_tokens: Annotated[int, "Longest session in tokens; 0 takes the model's."] = 0
    compile: Annotated[
        CompileMode, "auto records or compiles steps where it pays; off runs the library's model."
    ] = "auto"
    reproducible: Annotated[bool, "Use one shape of step only."] = False
    threads: Annotated[int, "CPU threads of the model; 0 takes every core."] = 0
    tensor_parallel: Annotated[int, "Processes that share the model, each on a device."] = 1

    def __post_init__(self) -> None:
        require(
            DEVICE.fullmatch(self.device) is not None,
            f"device {self.device} is no torch device; write cpu or cuda:0",
        )
        require(self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}")
        require(
            self.quantization in QUANTIZATIONS,
            f"quantization must be one of {', '.join(QUANTIZATIONS)}",
        )
        require(self.attention in ATTENTIONS, f"attention must be one of {', '.join(ATTENTIONS)}")
        require(self.compile in COMPILE_MODES, f"compile must be one of {', '.join(COMPILE_MODES)}")
        require(1 <= self.slots <= 4096, "slots must be 1 to 4096")
        require(
            0 <= self.rows <= self.slots,
            f"rows must be 1 to the {self.slots} slots, or 0 for all of them",
        )
        require(1 <= self.width <= 64, "width must be 1 to 64")
        require(
            self.prefill_width % 8 == 0 and 8 <= self.prefill_width <= 4096,
            "prefill width must be a multiple of 8, 8 to 4096",
        )
        require(self.max_context_tokens >= 0, "max context tokens must not be negative")
        require(self.park_bytes >= 0, "park memory must not be negative")
        require(0 <= self.queue <= 1 << 16, "queue must be 0 to 65536")
        require(0 <= self.threads <= MAX_THREADS, f"threads must be 0 to {MAX_THREADS}")
        require(1 <= self.tensor_parallel <= MAX_RANKS, f"tensor parallel must be 1 to {MAX_RANKS}")
        if self.tensor_parallel > 1:
            self._check_ranks()

    def _check_ranks(self) -> None:
        require(
            self.device in SHARED_DEVICES,
            f"several ranks run on {' or '.join(SHARED_DEVICES)}, each on a device of its own, "
            f"not on {self.device}",
        )
        require(
            self.quantization == "none",
            "quantized weights cannot be shared by several ranks; leave one of both options out",
        )

    @property
    def row_buckets(self) -> tuple[int, ...]:
        """Numbers of rows that a step may have, ascending: powers of four, and the most. A step holds
        `width` tokens for each."""
        most = self.rows or self.slots
        sizes = {most}
        size = 1
        while size < most:
            sizes.add(size)
            size *= 4
        return tuple(sorted(sizes))

    @property
    def thread_count(self) -> int:
        """CPU threads of the model; those of one rank where several share the cores."""
        return self.threads or max(1, (os.cpu_count() or 1) // self.tensor_parallel)
