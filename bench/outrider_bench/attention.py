"""Attention kernels beside each other: time and peak memory at a long context, and whether tokens differ.

Prints a table in Markdown. Each kernel gets a process of its own. A prompt is read in chunks, then tokens are
generated one by one.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from outrider_server import lifeline
from outrider_server.core.errors import StartupError
from outrider_server.engine.options import ATTENTIONS, Attention, CompileMode, Dtype, EngineOptions

from .attention_kernel import GENERATED, KernelRun, Measured
from .model_cache import cache_folder
from .model_folder import check_model_folder
from .peer_process import how_it_ended
from .widening import LONGEST_POSITIONS, check_widen, lengthened, widened

PROCESS = "outrider_bench.attention_kernel"
KERNELS = tuple(name for name in ATTENTIONS if name != "auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSettings:
    """What a run is asked for. Raises StartupError for what cannot be run."""

    model: Path
    widen: float
    """Million weights to widen the model to; 0 leaves it as it is."""
    tokens: int
    dtype: Dtype
    device: str
    compile: CompileMode
    threads: int
    prefill_width: int

    def __post_init__(self) -> None:
        check_model_folder(self.model)
        check_widen(self.widen)
        EngineOptions(
            folder=self.model,
            dtype=self.dtype,
            device=self.device,
            compile=self.compile,
            threads=self.threads,
            prefill_width=self.prefill_width,
        )


def run_attention(settings: AttentionSettings) -> int:
    """Prints the table, row by row; 0, or 1 where no kernel ran. Raises StartupError."""
    folder = (
        widened(settings.model, settings.widen, cache_folder())
        if settings.widen
        else lengthened(settings.model, LONGEST_POSITIONS, cache_folder())
    )
    print(
        "| kernel | prefill, ms/token | step, ms | peak, MiB | tokens |",
        "|---|---|---|---|---|",
        sep="\n",
        flush=True,
    )
    first: list[int] | None = None
    for kernel in KERNELS:
        found = run_kernel(settings, folder, kernel)
        if isinstance(found, str):
            print(f"| {kernel} | {found} | | | |", flush=True)
            continue
        first = first or found.tokens
        same = sum(a == b for a, b in zip(first, found.tokens, strict=True))
        print(
            f"| {kernel} | {found.prefill_ms_a_token:.3f} | {found.step_ms:.2f} "
            f"| {found.peak_mib:.1f} | {same} of {GENERATED} |",
            flush=True,
        )
    return 0 if first is not None else 1


def run_kernel(settings: AttentionSettings, folder: Path, kernel: Attention) -> Measured | str:
    """One kernel's figures, or why it cannot run here. Raises StartupError where its process breaks."""
    run = KernelRun(
        folder=str(folder),
        kernel=kernel,
        tokens=settings.tokens,
        dtype=settings.dtype,
        device=settings.device,
        compile=settings.compile,
        threads=settings.threads,
        prefill_width=settings.prefill_width,
    )
    command = lifeline.python(PROCESS, json.dumps(asdict(run)))
    ended = subprocess.run(command, check=False, stdout=subprocess.PIPE)
    if ended.returncode:
        raise StartupError(f"the process of the kernel {kernel} {how_it_ended(ended.returncode)}")
    answer = json.loads(ended.stdout)
    return answer if isinstance(answer, str) else Measured(**answer)
