"""The processes: builds each service from its configuration, serves, drains, stops.

The only place that knows all the parts. Each `run_*` prints `ready ADDRESS` when it serves and returns after
a signal that asks it to stop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from outrider.v1 import session_pb2, target_pb2
from outrider.v1.draft_pb2 import DESCRIPTOR as DRAFT_FILE

from ..address import Listen
from ..config import DraftConfig, SessionConfig, TargetConfig, is_database
from ..core.errors import StartupError, Unavailable
from ..core.importing import many_imports
from ..core.progress import Progress, Report, Stage, silent
from ..core.surroundings import Surroundings
from ..engine.model.formats import check_format, check_target
from ..engine.model.hub import check_named
from ..engine.options import EngineOptions
from ..rpc import telemetry
from ..rpc.binding import check_free
from ..rpc.channels import open_channel
from ..rpc.serve import Server
from ..start_display import shown
from ..stopping import Stop

if TYPE_CHECKING:
    from ..host.engine_host import EngineHost
    from ..session.ledger.ledger import Ledger
    from ..session.peers.addresses import Addresses
    from ..session.peers.drafts import Drafts
    from ..session.peers.targets import Targets
    from ..session.text.model import ServedModel

log = logging.getLogger("outrider.session")

TARGET_SERVICE = target_pb2.DESCRIPTOR.services_by_name["TargetService"].full_name
DRAFT_SERVICE = DRAFT_FILE.services_by_name["DraftService"].full_name
SESSION_SERVICE = session_pb2.DESCRIPTOR.services_by_name["SessionService"].full_name

MAX_PUBLIC_REQUEST_BYTES = 4 << 20

SWITCH_SECONDS = 0.0005
"""After this long the session service's event loop takes its turn from a thread that reads a long input:
the interpreter's own 5 ms are a step, and a step wakes the loop several times."""

SILENT_SECONDS = 2.5
"""After this long of waiting for a target at start-up the operator is told why; asking takes 2 s more."""


async def run_target(config: TargetConfig) -> None:
    """The target service until it is told to stop. Raises StartupError."""
    with shown("target") as tell:
        stop_telemetry = _prepare(config.listen, "target", config.engine, check_target)
        host = await _start_engine(config.engine, "target", tell, check_target)
        if host is None:
            return
        from outrider.v1 import target_pb2_grpc

        from ..target.service import TargetServicer

    server = Server([TARGET_SERVICE])
    servicer = TargetServicer(host)
    server.on_drain(servicer.refuse_turns)
    target_pb2_grpc.add_TargetServiceServicer_to_server(  # type: ignore[no-untyped-call]
        servicer, server.grpc
    )
    await _serve(server, config.listen, config.drain_seconds, host.stop)
    stop_telemetry()


async def run_draft(config: DraftConfig) -> None:
    """The draft service until it is told to stop. Raises StartupError."""
    with shown("draft") as tell:
        stop_telemetry = _prepare(config.listen, "draft", config.engine)
        host = await _start_engine(config.engine, "draft", tell)
        if host is None:
            return
        from outrider.v1 import draft_pb2_grpc

        from ..draft.service import DraftServicer

    server = Server([DRAFT_SERVICE])
    draft_pb2_grpc.add_DraftServiceServicer_to_server(  # type: ignore[no-untyped-call]
        DraftServicer(host), server.grpc
    )
    await _serve(server, config.listen, config.drain_seconds, host.stop)
    stop_telemetry()


async def run_session(config: SessionConfig) -> None:
    """The session service until it is told to stop. Raises StartupError."""
    stop_telemetry = _prepare(config.listen, "session")
    sys.setswitchinterval(SWITCH_SECONDS)
    from ..ledger_opening import open_ledger

    ledger = await open_ledger(str(config.ledger), config.ttl_seconds)
    try:
        await _run_session(config, ledger)
    finally:
        await ledger.aclose()
    stop_telemetry()


async def _run_session(config: SessionConfig, ledger: Ledger) -> None:
    with shown("session") as tell:
        tell(Report(Stage.IMPORTING))
        server, stop = await _session_server(config, ledger, tell)
    await _serve(server, config.listen, config.drain_seconds, stop)


async def _session_server(
    config: SessionConfig, ledger: Ledger, tell: Progress
) -> tuple[Server, Callable[[], Awaitable[None]]]:
    """The server of a session service that knows its target, and what stops all beside it."""
    from outrider.v1 import session_pb2_grpc

    from ..session.drafting import LoopSettings
    from ..session.ledger.sweeper import Sweeper
    from ..session.peers.addresses import Addresses
    from ..session.service import SessionServicer
    from ..session.sessions import Sessions

    around = Surroundings()
    targets, drafts = Addresses(config.targets), Addresses(config.drafts)
    tell(Report(Stage.CONNECTING))
    target, model = await _known_target(config, targets, around)
    draft = drafts_at(await drafts.look_up(), around) if config.drafts else None
    beside = [
        asyncio.create_task(Sweeper(ledger, config.sweep_seconds).run()),
        asyncio.create_task(targets.follow(target.move_to, target.failures)),
    ]
    if draft is not None:
        beside.append(asyncio.create_task(drafts.follow(draft.move_to, draft.failures)))
    settings = LoopSettings(config.window, config.lead, config.loop)
    lease_seconds = config.lease_seconds if is_database(str(config.ledger)) else None
    sessions = Sessions(model, target, draft, ledger, settings, around, lease_seconds)

    async def stop() -> None:
        for task in beside:
            task.cancel()
        await sessions.settle()
        await target.close()
        if draft is not None:
            await draft.aclose()

    server = Server([SESSION_SERVICE], MAX_PUBLIC_REQUEST_BYTES)
    session_pb2_grpc.add_SessionServiceServicer_to_server(  # type: ignore[no-untyped-call]
        SessionServicer(sessions), server.grpc
    )
    return server, stop


async def _known_target(
    config: SessionConfig, targets: Addresses, around: Surroundings
) -> tuple[Targets, ServedModel]:
    """The targets, once one answers, and what they serve. Raises StartupError where none does in time."""
    from ..session.text.model import ServedModel

    try:
        target = targets_at(await targets.first(config.target_timeout_ms / 1000), around)
    except Unavailable as error:
        raise StartupError(f"no target at {', '.join(config.targets)}: {error}") from error
    telling = asyncio.create_task(_tell_what_is_waited_for(target))
    try:
        model = ServedModel.of(
            *await target.describe(config.target_timeout_ms),
            defaults_of_model=config.generation_defaults == "model",
        )
    except Unavailable as error:
        raise StartupError(f"no target answers ({await target.troubles()})") from error
    finally:
        telling.cancel()
    return target, model


def targets_at(addresses: Sequence[str], around: Surroundings) -> Targets:
    """The targets of a session service."""
    from ..session.peers.target_link import TargetLink
    from ..session.peers.targets import Targets

    def link_to(address: str) -> TargetLink:
        return TargetLink(open_channel(address))

    return Targets(addresses, link_to, around.clock, around.chance)


def drafts_at(addresses: Sequence[str], around: Surroundings) -> Drafts:
    """The drafts of a session service."""
    from ..session.peers.draft_link import DraftLink
    from ..session.peers.drafts import Drafts

    def link_to(address: str) -> DraftLink:
        return DraftLink(open_channel(address), around.clock)

    return Drafts(addresses, link_to, around.clock)


async def _tell_what_is_waited_for(target: Targets) -> None:
    await asyncio.sleep(SILENT_SECONDS)
    log.warning("no target answers yet, and is waited for (%s)", await target.troubles())


def _prepare(
    listen: str,
    name: str,
    engine: EngineOptions | None = None,
    check: Callable[[Path], None] = check_format,
) -> Callable[[], None]:
    """What needs no model comes before it, and before torch: the address is free, the model is there as far
    as one can see at once, telemetry set up.

    Returns what stops telemetry.
    Where ranks share the model, rank 0 listens alone. Raises StartupError.
    """
    if os.environ.get("RANK", "0") != "0":
        return lambda: None
    check_free(Listen.read(listen))
    if engine is not None:
        check_named(engine.folder, check)
    return telemetry.set_up(f"outrider-{name}")


async def _serve(
    server: Server,
    listen: str,
    drain_seconds: float,
    stop: Callable[[], Awaitable[None]],
) -> None:
    try:
        told = Stop()  # before it is known that the service is ready to be stopped
        address = await server.start(listen)
        print(f"ready {address}", flush=True)
        await told.asked.wait()
        await told.end(server.drain(drain_seconds), server.cut_off)
    finally:
        await server.cut_off()
        await stop()


async def _start_engine(
    config: EngineOptions,
    name: str,
    tell: Progress = silent,
    check: Callable[[Path], None] = check_format,
) -> EngineHost | None:
    """An engine host, its counters observed. Imports torch, which the session service never does.

    `check` is `engine_builder`'s. Where ranks share the model, the host is rank 0's; any other returns None,
    after its last step.
    """
    tell(Report(Stage.IMPORTING))
    with many_imports():
        from .engines import follow_leader, gathered, kept_start, started_host, started_leader

    ranks = gathered(config)
    if ranks is None:
        host = await started_host(config, kept_start(tell), check)
    elif ranks.leads:
        host = await started_leader(config, ranks, tell, check)
    else:
        follow_leader(config, ranks)
        return None
    _observe(name, host)
    return host


def _observe(name: str, host: EngineHost) -> None:
    """Registers what an engine counts and holds as metrics."""
    counters, table, parked = host.engine.counters, host.engine.table, host.engine.parked
    telemetry.observe_counters(
        {
            f"outrider.{name}.steps": ("{step}", "Steps run", lambda: counters.verify_steps),
            f"outrider.{name}.rows": ("{row}", "Rows in them", lambda: counters.verify_rows),
            f"outrider.{name}.prefilled_tokens": (
                "{token}",
                "Tokens read by prefill",
                lambda: counters.prefilled_tokens,
            ),
            f"outrider.{name}.device_time": (
                "s",
                "Time that steps took on the device",
                lambda: counters.device_seconds,
            ),
            f"outrider.{name}.restored": ("{session}", "Unparked", lambda: parked.restored),
            f"outrider.{name}.dropped": ("{session}", "KV lost", lambda: parked.dropped),
        }
    )
    telemetry.observe_gauges(
        {
            f"outrider.{name}.slots_held": ("{slot}", "Held", lambda: table.session_count),
            f"outrider.{name}.slots_open": ("{slot}", "In a turn", lambda: table.open_count),
            f"outrider.{name}.parked": ("{session}", "Parked sessions", lambda: len(parked)),
            f"outrider.{name}.parked_bytes": ("By", "Their KV", lambda: parked.byte_count),
            f"outrider.{name}.queue": ("{turn}", "Wait for a slot", lambda: len(host.queue)),
        }
    )
