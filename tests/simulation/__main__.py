"""Runs seeds: `python -m tests.simulation --seeds 0:2000`, or one with its event log: `--seed 17 --trace`."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections import Counter

from .planted import PLANTED
from .run import run_seed


def main() -> int:
    """Returns 1 where a run violated anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0:100", help="FIRST:END, the end not included")
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--trace", action="store_true", help="print the event log of a run")
    parser.add_argument("--planted", choices=sorted(PLANTED), help="run with a planted bug")
    options = parser.parse_args()
    first, _, end = options.seeds.partition(":")
    seeds = range(int(first), int(end)) if options.seed is None else [options.seed]
    planted = PLANTED[options.planted]() if options.planted else contextlib.nullcontext()
    failed, events, checks, began = Counter[str](), 0, 0, time.perf_counter()
    with planted:
        for seed in seeds:
            outcome = run_seed(seed)
            events, checks = events + outcome.events, checks + outcome.checks
            if options.trace:
                print(*outcome.log, sep="\n")
            if options.trace or outcome.violations:
                print(
                    f"seed {seed}: {outcome.violations or 'well'} digest {outcome.digest}",
                    flush=True,
                )
            failed.update(outcome.violations[:1])
    seconds = time.perf_counter() - began
    print(
        f"{len(seeds)} seeds, {sum(failed.values())} violated, {events} events, "
        f"{checks} checks, {seconds:.1f} s"
    )
    for what, count in failed.most_common():
        print(f"  {count}  {what}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
