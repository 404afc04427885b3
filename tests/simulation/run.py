"""One run from its seed: start, break, mend, let every turn end, and look at what is left."""

from __future__ import annotations

import asyncio
import gc
import logging
from dataclasses import dataclass
from typing import Any

from .clients import SimulatedClient
from .clock import Process, Stuck, VirtualLoop, bury, unheard, virtual_time
from .cluster import Cluster
from .scenario import Scenario, draw_scenario
from .watch import Watch

PATIENCE_SECONDS = 400.0
"""Virtual time in which every turn ends; the last fault is over after a few seconds of it."""
SETTLING_SECONDS = 45.0
"""In which everybody notices what is broken, keepalive being slowest."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to."""

    seed: int
    violations: tuple[str, ...]
    log: tuple[str, ...]
    digest: str
    events: int
    checks: int
    virtual_seconds: float


def run_seed(seed: int) -> Outcome:
    """Runs the scenario of a seed."""
    return run(draw_scenario(seed))


def run(scenario: Scenario) -> Outcome:
    """Runs a scenario to its end, or to the first violation."""
    with virtual_time() as loop:
        outcome = _run_on(loop, scenario)
        with unheard():
            gc.collect()  # what the run's own names still held
    return outcome


def _run_on(loop: VirtualLoop, scenario: Scenario) -> Outcome:
    watch = Watch(loop)
    cluster = Cluster(loop, scenario, watch)
    loop.set_exception_handler(lambda _, context: watch.violate(f"unhandled: {context}"))
    log = logging.getLogger("outrider")
    log.addHandler(watch)
    propagates, log.propagate = log.propagate, False
    try:
        loop.run_until_complete(_play(cluster))
    except Stuck as stuck:
        watch.violate(str(stuck))
    except RuntimeError:
        if not watch.violations:  # the first violation stops the loop
            raise
    finally:
        events, seconds = loop.events, loop.time()
        violations, lines, digest = tuple(watch.violations), tuple(watch.log), watch.digest()
        bury(loop, cluster.processes)
        cluster.store.close()
        log.removeHandler(watch)
        log.propagate = propagates
    return Outcome(
        scenario.seed,
        violations,
        lines,
        digest,
        events,
        watch.checks,
        seconds,
    )


async def _play(cluster: Cluster) -> None:
    cluster.start_all()
    cluster.schedule()
    plans = enumerate(cluster.scenario.clients)
    clients = [SimulatedClient(cluster, number, plan) for number, plan in plans]
    work = [client.process.spawn(client.run()) for client in clients]
    work += [client.rival_process.spawn(client.steal()) for client in clients]
    _, unfinished = await asyncio.wait(work, timeout=PATIENCE_SECONDS)
    cluster.watch.check(not unfinished, "a turn does not end")
    for task in work:
        if task.done() and not task.cancelled():
            task.result()
    cluster.stop_faults()
    await asyncio.sleep(SETTLING_SECONDS)
    _check_idle(cluster)
    for client in clients:
        await client.process.spawn(client.client.close())
        await client.rival_process.spawn(client.rival.close())
    for process, service in cluster.sessions.items():
        if process.alive:
            await process.spawn(service.targets.close())
            if service.drafts is not None:
                await process.spawn(service.drafts.aclose())
    await asyncio.sleep(SETTLING_SECONDS)
    _check_tasks(cluster)


def _check_idle(cluster: Cluster) -> None:
    """Nobody holds what a turn held."""
    check = cluster.watch.check
    for process, service in cluster.sessions.items():
        live: Any = service.sessions.live
        if process.alive:
            check(not live._running, f"{process.name} holds a claim of a turn that has ended")
            check(not live._endings, f"{process.name} still ends a turn")
            check(not live._keepers, f"{process.name} still renews a lease")
    for process, host in cluster.hosts.items():
        if process.alive:
            check(not host.engine.table.open_count, f"{process.name} holds an open slot")
            check(not len(host.queue), f"{process.name} still has turns in its queue")


def _check_tasks(cluster: Cluster) -> None:
    """Nothing runs but the devices."""
    for process in cluster.processes:
        left = [task for task in process.tasks if process.alive and not _is_device(process, task)]
        names = ", ".join(sorted(_named(task) for task in left))
        cluster.watch.check(not left, f"{process.name} left tasks behind: {names}")


def _is_device(process: Process, task: asyncio.Task[Any]) -> bool:
    return process.server is not None and _named(task) == "VirtualDevice.run"


def _named(task: asyncio.Task[Any]) -> str:
    return str(getattr(task.get_coro(), "__qualname__", task.get_name()))
