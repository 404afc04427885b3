"""Prints planned beside measured bytes of the bundled and the widened models: `python -m tests.planning`.

Each row is an engine in a process of its own. The total is what the engine's tensors hold between steps and
the most that torch gives out beside them during one; `resident` is how the process grew, which has libraries
in it and lacks pages of the cache that nothing was written to.
"""

from __future__ import annotations

from outrider_bench.machine import machine_facts
from outrider_bench.model_cache import cache_folder
from outrider_bench.widening import widened
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER

from .comparing import WIDENED_MILLIONS, Comparison, compare

MODES = {"off": "the library's model", "auto": "own kernels, recorded"}
HEADING = """\
| model | runs on | slots | weights planned | measured | cache planned | measured \
| total planned | measured | planned / measured | resident |
|---|---|---|---|---|---|---|---|---|---|---|"""


def row(name: str, mode: str, slots: int, found: Comparison) -> str:
    """One line of the table; bytes are exact."""
    plan, real = found.plan, found.real
    sizes = [found.planned_weights, real.weights, plan.cache_bytes, real.cache]
    sizes += [plan.total_bytes, real.total]
    cells = [name, MODES[mode], str(slots), *(f"{size:,}" for size in sizes)]
    cells += [f"{found.ratio:.4f}", f"{real.resident:,}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Prints one row after the other."""
    facts = machine_facts()
    versions = facts["versions"]
    print(f"torch {versions['torch']}, transformers {versions['transformers']}", end=", ")
    print(f"{facts['processor']}, {facts['cores']} cores\n\n{HEADING}", flush=True)
    wide = widened(TARGET_FOLDER, WIDENED_MILLIONS, cache_folder())
    for folder in (TARGET_FOLDER, DRAFT_FOLDER, wide):
        for mode in MODES:
            for slots in (1, 8):
                found = compare(folder, mode, slots)
                print(row(folder.name, mode, slots, found), flush=True)


if __name__ == "__main__":
    main()
