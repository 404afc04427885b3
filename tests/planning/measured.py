"""Measures an engine in a process of its own: `python -m tests.planning.measured FOLDER COMPILE [SLOTS]`.

Prints one JSON object of bytes. `weights` and `cache` are those of the tensors held. `workspace` is the most
that a step allocates at once beside them, by torch's memory profiler, over greedy and fully featured verify
steps and prefill, at the end of the context, with what recorded steps always hold. `resident` is the growth
of resident memory from before loading to after these steps.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from outrider_bench.machine import resident_bytes
from outrider_server.core.progress import silent
from outrider_server.core.types import Draw, SamplingParams
from outrider_server.engine.layout import Row
from outrider_server.engine.limits import StepLimits
from outrider_server.engine.model.loading import load_model
from outrider_server.engine.options import EngineOptions
from outrider_server.engine.program.computations import LookedUp
from outrider_server.engine.program.recorded import Recorded, recorded_model
from outrider_server.engine.step import StepRunner
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

GREEDY = SamplingParams(temperature=0)
EVERYTHING = SamplingParams(
    temperature=1.0,
    top_k=50,
    top_p=0.9,
    repetition_penalty=1.1,
    frequency_penalty=0.1,
    logit_bias={1: 1.0},
)


def most_allocated(work: Callable[[], object]) -> int:
    """Bytes that `work` holds at once beyond what was there before, in torch's allocator."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    events = profiler.profiler.kineto_results.events()
    changes = sorted(
        (event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"
    )
    held = most = 0
    for _, change in changes:
        held += change
        most = max(most, held)
    return most


def held_by(runner: StepRunner, model: PreTrainedModel) -> int:
    """Bytes of weights and buffers, and of what was recorded of them; each tensor once."""
    tensors = [*model.parameters(), *model.buffers()]
    if runner.layout.packed:
        tensors += recorded_tensors(recorded_model(model, (), silent))
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in tensors}
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def recorded_tensors(recorded: Recorded) -> list[torch.Tensor]:
    """Packed layers, tables and constants, but for single numbers."""
    parts = ("packed", "bias", "scales", "offsets", "codes")
    found = [getattr(layer, part) for layer in recorded.layers for part in parts]
    for computation in recorded.lowered.computations:
        found += [placed.base for placed in computation.inputs]
        found += [computation.table] if isinstance(computation, LookedUp) else []
    tensors = (each for each in found if isinstance(each, torch.Tensor))
    return [tensor for tensor in tensors if tensor.numel() > 1]


def arena_bytes(runner: StepRunner) -> int:
    """What recorded steps hold for their tokens."""
    return runner.forward._program._arena.nbytes if runner.layout.packed else 0


def spread_tensors(runner: StepRunner) -> list[torch.Tensor]:
    """What a draft with a vocabulary of its own has beside its steps: ids, and rows of its target's."""
    spreading, forward = runner._spreading, runner.forward
    if spreading is None:
        return []
    own_ids = forward._program._own_ids if runner.layout.packed else forward._own_ids
    return [spreading._logits, spreading._token_ids, spreading._targets, own_ids]


def measure(folder: Path, mode: str, slots: int) -> dict[str, int]:
    """The bytes of an engine at its defaults."""
    before = resident_bytes(os.getpid())
    config = EngineOptions(folder=folder, slots=slots, rows=slots)
    loaded = load_model(folder, "auto", torch.device("cpu"))
    context = loaded.max_positions
    limits = StepLimits(slots, context, config.width, config.prefill_width, config.row_buckets)
    runner = StepRunner(loaded, limits, mode)
    start = context - config.width
    rows = [Row(slot, start, tuple(range(config.width))) for slot in range(slots)]
    steps: list[int] = []

    def run(work: Callable[[], object]) -> None:
        work()
        steps.append(most_allocated(work))

    for sampling in (GREEDY, EVERYTHING):
        for slot in range(slots):
            runner.draws.write(slot, Draw(sampling=sampling, seed=7, generated_from=0))
        run(lambda: runner.decide(rows, limits.row_buckets[-1]))
    last = Row(0, context - config.prefill_width, tuple(range(config.prefill_width)))
    run(lambda: runner.prefill(last))
    inputs = sum(tensor.nbytes for tensor in runner._inputs.values())
    draws = sum(t.nbytes for t in vars(runner.draws).values() if isinstance(t, torch.Tensor))
    spread, *ids = [tensor.nbytes for tensor in spread_tensors(runner)] or [0]
    return {
        "weights": held_by(runner, loaded.model),
        "cache": runner.forward.cache.byte_count,
        "tables": runner.history.nbytes + inputs + draws + sum(ids),
        "greedy": steps[0],
        "workspace": max(steps) + arena_bytes(runner) + spread,
        "resident": resident_bytes(os.getpid()) - before,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
