"""One run: services, load and faults together, and what came of it as a table."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .cluster import Cluster
from .database import Database
from .faults import Damage, Fault, inflict, planned
from .load import Count, News, Speaker
from .talks import talks


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does."""

    seed: int
    faults: int
    services: tuple[str, ...]
    kinds: tuple[Fault, ...] = (Fault.KILL,)
    turn_tokens: int = 120


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it, or has come of it so far."""

    count: Count = field(default_factory=Count)
    damages: list[Damage] = field(default_factory=list)


async def run(
    plan: Plan,
    folder: Path,
    outcome: Outcome,
    tell: Callable[[int, Damage], None] = lambda _, __: None,
    database: Database | None = None,
) -> None:
    """Runs the plan on services of its own, whose files go to a folder. `tell` hears of each fault."""
    async with Cluster(folder, database) as cluster:
        news, stop = News(), asyncio.Event()
        speakers = [
            Speaker(cluster.address, talk, outcome.count, news) for talk in talks(plan.turn_tokens)
        ]
        await asyncio.gather(*(speaker.rehearse() for speaker in speakers))
        async with asyncio.TaskGroup() as group:
            for speaker in speakers:
                group.create_task(speaker.speak(stop))
            faults = planned(plan.seed, plan.faults, plan.services, plan.kinds)
            for number, fault in enumerate(faults, 1):
                outcome.damages.append(await inflict(cluster, speakers, news, fault))
                tell(number, outcome.damages[-1])
            stop.set()


def table(outcome: Outcome) -> str:
    """The outcome for people: a line a service and fault, then the tokens."""
    lines = [f"{'seconds':<28}{'turns':>6}{'p50':>9}{'p99':>9}{'max':>9}"]
    kinds = sorted({(damage.service, damage.fault) for damage in outcome.damages})
    for service, fault in kinds:
        of_kind = [d for d in outcome.damages if (d.service, d.fault) == (service, fault)]
        lines.append(f"{service}, {fault}: {len(of_kind)}")
        lines += _line("recovered after", _all(d.recoveries for d in of_kind))
        lines += _line("longest silence", _all(d.silences for d in of_kind))
        lines += _line("detected after", _all(d.detections for d in of_kind))
        lines += _line("once it was ready", _all(d.after_ready for d in of_kind))
        lines += _line("restart", [d.restart for d in of_kind if d.restart])
    count = outcome.count
    lines += [
        f"turns {count.turns}, degraded {count.degraded}, tokens seen {count.tokens}",
        f"tokens lost {count.lost}, repeated {count.repeated}, different {count.different}, "
        f"not committed {count.uncommitted}; turns not finished {len(count.failures)}",
        *count.failures,
    ]
    return "\n".join(lines)


def _all(groups: Iterable[Sequence[float]]) -> list[float]:
    return [value for group in groups for value in group]


def _line(name: str, seconds: Sequence[float]) -> list[str]:
    if not seconds:
        return []
    figures = (_at_share(seconds, share) for share in (0.5, 0.99, 1.0))
    return [f"  {name:<26}{len(seconds):>6}" + "".join(f"{value:>9.3f}" for value in figures)]


def _at_share(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
