"""`python -m tests.fuzz`: so many fuzzed messages, and how they ended. Exit status 1 where one went wrong."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

# As under pytest, the folder of the tests is where their imports begin.
sys.path.insert(0, str(Path(__file__).parents[1]))

from fuzz.run import Failed, fuzz
from fuzz.world import engines


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, engines(Path(folder)) as hosts:
        try:
            tally = asyncio.run(fuzz(Path(folder), hosts, options.messages, options.seed, _tell))
        except Failed as failed:
            print(failed)
            return 1
    print(tally.table())
    print(f"{options.messages} messages in {time.monotonic() - began:.0f} s, nothing wrong")
    return 0


def _tell(count: int) -> None:
    print(f"{count}", end="\r", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
