"""`python -m tests.chaos`: a long run, and its table. Exit status 1 unless every token was right.

Ctrl-C ends it early; the table then tells what came of it so far.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from pathlib import Path

# As under pytest, the folder of the tests is where their imports begin.
sys.path.insert(0, str(Path(__file__).parents[1]))

from chaos.cluster import DATABASE, SERVICES
from chaos.database import pooled_database
from chaos.faults import Damage, Fault
from chaos.run import Outcome, Plan, run, table

FAULTS = {
    "kill": (Fault.KILL,),
    "freeze": (Fault.FREEZE, Fault.FREEZE_AND_KILL),
    "terminate": (Fault.TERMINATE,),
    "network": (Fault.BREAK, Fault.SHUT),
}


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="faults altogether")
    parser.add_argument(
        "--service",
        choices=(*SERVICES, DATABASE, "all"),
        default="all",
        help="database: the ledger's PostgreSQL server, with --pooled",
    )
    parser.add_argument(
        "--pooled",
        action="store_true",
        help="the ledger is in a PostgreSQL server behind a pgbouncer in transaction mode",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--fault",
        choices=tuple(FAULTS),
        default="kill",
        help="kill: SIGKILL. freeze: SIGSTOP until it is noticed, then SIGCONT or SIGKILL. terminate: "
        "SIGTERM. network: connections are reset, or nothing passes until that is noticed",
    )
    options = parser.parse_args()
    if options.service == DATABASE and not options.pooled:
        parser.error("--service database needs --pooled")
    services = SERVICES if options.service == "all" else (options.service,)
    kinds = FAULTS[options.fault]
    if options.fault == "freeze" and "session" in services:
        services = tuple(name for name in services if name != "session")
    plan, outcome = Plan(options.seed, options.kills, services, kinds), Outcome()
    stored = pooled_database() if options.pooled else contextlib.nullcontext()
    with (
        tempfile.TemporaryDirectory() as folder,
        stored as database,
        contextlib.suppress(KeyboardInterrupt),
    ):
        asyncio.run(run(plan, Path(folder), outcome, _tell, database))
    print(table(outcome))
    return 0 if outcome.count.spotless else 1


def _tell(number: int, damage: Damage) -> None:
    silent = ", ".join(f"{seconds:.2f}" for seconds in damage.silences)
    print(
        f"{number}: {damage.service}, {damage.fault}: silent for {silent} s",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
