"""Which attention kernel an engine runs: the one asked for, or the fastest that this machine has.

Owns the refusals by model and the measurement at start-up; those by name are `attention_names.py`'s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from transformers import PreTrainedModel

from ...core.errors import StartupError
from ...core.progress import Report, Stage
from ..cache import SlotCache
from ..model.architectures import cache_shape
from ..starting import Start
from .attention import SLOPES, make_places, slot_attention
from .attention_kernels import FLASH
from .attention_names import AUTO, SDPA, AttentionChoice, check_attention, missing_for

PREFERRED = (FLASH, SDPA, "efficient", "math", "eager")
"""What `auto` measures, the first preferred. A compiler would write `flex` anew at every start."""
PREFERENCE = 1.5
"""So many times faster must a kernel be to be taken before a preferred one: the choice decides bits, so it
must not change with what else the machine does."""
TIMED_RUNS = 20
"""Of each kernel, of which the fastest counts: other work may disturb most of them."""
TIMED_POSITION = 2000
"""Kernels are timed over a context of this length, or the longest."""
UNCAPPED = (SDPA, "efficient", "math")
"""Kernels that cannot cap scores."""
FLASH_LARGEST_HEAD = 256
RECORD = "attention"
"""The kind of record that a measured choice is kept as."""


def _unfit(kernel: str, model: PreTrainedModel, cache: SlotCache) -> str:
    """Why a kernel that this machine has cannot serve a model, and what to do; nothing where it can."""
    layer = cache.layers[0]
    if kernel in UNCAPPED and _softcap(model) is not None:
        return f"it cannot cap scores, as {model.config.model_type} does; use eager or flex"
    if kernel == FLASH and layer.keys.dtype not in (torch.float16, torch.bfloat16):
        return "it takes float16 and bfloat16 only; set the dtype, or use sdpa"
    if kernel == FLASH and layer.keys.shape[3] > FLASH_LARGEST_HEAD:
        return f"it takes heads up to {FLASH_LARGEST_HEAD}; use sdpa"
    return ""


def _softcap(model: PreTrainedModel) -> float | None:
    softcap: float | None = getattr(model.config, "attn_logit_softcapping", None)
    return softcap


def choose_attention(
    wanted: str,
    model: PreTrainedModel,
    cache: SlotCache,
    rows: int,
    width: int,
    start: Start,
    alike: bool = False,
) -> AttentionChoice:
    """The kernel to run: `wanted`, or for `auto` the fastest over `rows` rows of `width` tokens, which an
    earlier start may have measured.

    `alike` says that other processes choose as well, and must choose the same: nothing is measured.
    Raises StartupError where the wanted one cannot run here.
    """
    device = cache.layers[0].keys.device.type
    if wanted != AUTO:
        check_attention(wanted, device)
        unfit = _unfit(wanted, model, cache) or _fails(_call(wanted, model, cache, rows, width))
        if unfit:
            raise StartupError(f"attention {wanted} cannot run: {unfit}")
        return AttentionChoice(wanted, f"{wanted} was asked for")
    calls = {
        kernel: _call(kernel, model, cache, rows, width)
        for kernel in PREFERRED
        if not (missing_for(kernel, device) or _unfit(kernel, model, cache))
    }
    if not alike and (kept := _kept(start.records.recall(RECORD), calls)):
        return kept
    start.tell(Report(Stage.CHOOSING))
    failures = {kernel: why for kernel, call in calls.items() if (why := _fails(call))}
    if len(failures) == len(calls):
        raise StartupError(f"no attention kernel runs here{_told(failures)}")
    running = {kernel: call for kernel, call in calls.items() if kernel not in failures}
    if alike:
        note = f"ranks that share a model take the first they have{_told(failures)}"
        return AttentionChoice(next(iter(running)), note)
    milliseconds = _measure(running)
    figures = ", ".join(f"{kernel} {value:.2f} ms" for kernel, value in milliseconds.items())
    note = f"measured for {rows} rows of {width} tokens: {figures}{_told(failures)}"
    choice = AttentionChoice(preferred(milliseconds), note)
    if not failures:  # what is broken may be mended
        start.records.keep(RECORD, asdict(choice))
    return choice


def _kept(outcome: Any, calls: Mapping[str, Callable[[], torch.Tensor]]) -> AttentionChoice | None:
    """An earlier start's choice; None where there is none, or its kernel does not run any more."""
    match outcome:
        case {"kernel": str(kernel), "note": str(note)} if kernel in calls:
            return (
                None
                if _fails(calls[kernel])
                else AttentionChoice(kernel, f"{note}, at an earlier start")
            )
    return None


def _told(failures: Mapping[str, str]) -> str:
    """Which kernels should have run here and did not: something of this machine is broken."""
    return "".join(f"; {kernel} failed: {why}" for kernel, why in failures.items())


def preferred(milliseconds: dict[str, float]) -> str:
    """The first kernel, unless another is faster by more than the preference."""
    first, fastest = next(iter(milliseconds)), min(milliseconds, key=milliseconds.__getitem__)
    clear = milliseconds[first] > PREFERENCE * milliseconds[fastest]
    return fastest if clear else first


def _call(
    kernel: str, model: PreTrainedModel, cache: SlotCache, rows: int, width: int
) -> Callable[[], torch.Tensor]:
    """One layer's attention over the cache as it stands, at the end of a long context."""
    keys, values = cache.layers[0].keys, cache.layers[0].values
    slopes = next((getattr(m, SLOPES) for m in model.modules() if hasattr(m, SLOPES)), None)
    group = model.config.num_attention_heads // cache_shape(model.config)[0]
    query = keys.new_ones((rows, group * keys.shape[1], width, keys.shape[3]))
    end = min(TIMED_POSITION, keys.shape[2])
    positions = torch.arange(end - width, end, device=keys.device).expand(rows, width)
    slots = torch.arange(rows, device=keys.device)[:, None].expand(rows, width)
    places = make_places(slots, positions)
    softcap = _softcap(model)

    def call() -> torch.Tensor:
        with torch.no_grad():
            mixed: torch.Tensor = slot_attention(
                query, keys, values, places, kernel, 1.0, slopes, softcap, None
            )
            return mixed

    return call


def _fails(call: Callable[[], torch.Tensor]) -> str:
    """The first line of the error of a call; nothing where it runs. What runs is warm afterwards."""
    try:
        call()
    except Exception as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return ""


def _measure(calls: dict[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
    """The least time of each call in milliseconds, in turns. The least is what the machine can do."""
    seconds: dict[str, list[float]] = {kernel: [] for kernel in calls}
    for _ in range(TIMED_RUNS):
        for kernel, call in calls.items():
            seconds[kernel].append(_seconds(call))
    return {kernel: min(of_kernel) * 1000 for kernel, of_kernel in seconds.items()}


def _seconds(call: Callable[[], torch.Tensor]) -> float:
    started = time.perf_counter()
    result = call()
    if result.device.type == "cuda":
        torch.cuda.synchronize(result.device)
    return time.perf_counter() - started
