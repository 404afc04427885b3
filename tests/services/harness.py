"""The three services in this process, over Unix sockets: engines that tests share, servers of their own.

Built from the classes that the service processes are built from.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import outrider
from outrider.v1 import draft_pb2_grpc, session_pb2_grpc, target_pb2_grpc
from outrider_server.commands import wiring
from outrider_server.config import DRAFT_WIDTH
from outrider_server.core.surroundings import Surroundings
from outrider_server.draft.service import DraftServicer
from outrider_server.engine.options import EngineOptions
from outrider_server.host.engine_host import EngineHost
from outrider_server.rpc.serve import Server
from outrider_server.session.drafting import LoopSettings
from outrider_server.session.ledger.sqlite_ledger import SqliteLedger
from outrider_server.session.peers.drafts import Drafts
from outrider_server.session.peers.targets import Targets
from outrider_server.session.service import SessionServicer
from outrider_server.session.sessions import Sessions
from outrider_server.session.text.model import ServedModel
from outrider_server.target.service import TargetServicer

from .one_turn import OneTurn, opening

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
WAIT_SECONDS = 20.0


def start_engine(folder: Path, name: str, **changes: Any) -> EngineHost:
    """An engine as the service `name` has it, eager and small. End it with `stop_engine`."""
    width = DRAFT_WIDTH if name == "draft" else 8
    settings: dict[str, Any] = {"slots": 8, "rows": 8, "width": width, "prefill_width": 64}
    config = EngineOptions(folder=folder, compile="off", threads=1, **(settings | changes))
    return asyncio.run(wiring._start_engine(config, name))


def stop_engine(host: EngineHost) -> None:
    """Ends the engine's thread."""
    asyncio.run(host.device.stop())


@contextmanager
def running_engine(folder: Path, name: str, **changes: Any) -> Iterator[EngineHost]:
    """An engine for as long as the context lasts."""
    host = start_engine(folder, name, **changes)
    try:
        yield host
    finally:
        stop_engine(host)


@asynccontextmanager
async def serving(
    listen: str, add: Callable[[grpc.aio.Server], None], **options: Any
) -> AsyncIterator[Server]:
    """A server at an address; leaving cuts its calls off."""
    server = Server([], **options)
    add(server.grpc)
    await server.start(listen)
    try:
        yield server
    finally:
        await server.grpc.stop(None)


def open_slots(host: EngineHost) -> list[str]:
    """The sessions that a turn has open."""
    return [slot.session_id for slot in host.engine.table._sessions.values() if slot.open]


async def until_closed(host: EngineHost) -> None:
    """Returns when no turn has a slot open."""

    async def closed() -> bool:
        return not await host.device.call(lambda _: open_slots(host))

    await until(closed)


@asynccontextmanager
async def serving_target(host: EngineHost, listen: str) -> AsyncIterator[Server]:
    """A target service."""
    servicer = TargetServicer(host)
    add = target_pb2_grpc.add_TargetServiceServicer_to_server
    async with serving(listen, lambda server: add(servicer, server)) as server:
        yield server
    await until_closed(host)


@asynccontextmanager
async def serving_draft(draft: Any, listen: str) -> AsyncIterator[Server]:
    """A draft service: of an engine, or of a servicer of the test's own."""
    is_engine = isinstance(draft, EngineHost)
    servicer = DraftServicer(draft) if is_engine else draft
    add = draft_pb2_grpc.add_DraftServiceServicer_to_server
    async with serving(listen, lambda server: add(servicer, server)) as server:
        yield server
    if is_engine:
        await until_closed(draft)


@dataclass
class SessionService:
    """A running session service, its ledger and a client of it."""

    server: Server
    ledger: SqliteLedger
    client: outrider.AsyncClient
    stub: session_pb2_grpc.SessionServiceStub
    targets: Targets
    drafts: Drafts | None
    sessions: Sessions


@asynccontextmanager
async def serving_session(
    listen: str,
    target: str,
    draft: str | None,
    ledger_path: Path,
    settings: LoopSettings | None = None,
    lease_seconds: float | None = None,
    defaults_of_model: bool = False,
    served: Callable[..., ServedModel] = ServedModel.of,
) -> AsyncIterator[SessionService]:
    """A session service over running services. With leases others may share its ledger. `served` may make
    another tokenizer or chat template of the target's."""
    async with AsyncExitStack() as stack:
        around = Surroundings()
        target_link = wiring.targets_at(target.split(","), around)
        stack.push_async_callback(target_link.close)
        draft_link = wiring.drafts_at([draft], around) if draft else None
        if draft_link is not None:
            stack.push_async_callback(draft_link.aclose)
        ledger = SqliteLedger(ledger_path)
        stack.push_async_callback(ledger.aclose)
        described = await target_link.describe(5_000)
        defaults = {"defaults_of_model": True} if defaults_of_model else {}
        model = served(*described, **defaults)
        sessions = Sessions(
            model,
            target_link,
            draft_link,
            ledger,
            settings or LoopSettings(),
            around,
            lease_seconds,
        )
        stack.push_async_callback(sessions.settle)
        server = await stack.enter_async_context(
            serving(
                listen,
                lambda grpc_server: session_pb2_grpc.add_SessionServiceServicer_to_server(
                    SessionServicer(sessions), grpc_server
                ),
                max_request_bytes=wiring.MAX_PUBLIC_REQUEST_BYTES,
            )
        )
        client = await stack.enter_async_context(
            outrider.AsyncClient(listen, channel_options=OWN_CONNECTION, resume_ms=0)
        )
        channel = grpc.aio.insecure_channel(listen, options=OWN_CONNECTION)
        await stack.enter_async_context(channel)
        stub = session_pb2_grpc.SessionServiceStub(channel)
        yield SessionService(server, ledger, client, stub, target_link, draft_link, sessions)


@dataclass
class Stack:
    """The three services. `target` and `draft` are the addresses, whether served or not."""

    folder: Path
    target: str = field(init=False)
    draft: str = field(init=False)
    exits: AsyncExitStack = field(default_factory=AsyncExitStack)
    services: dict[str, AsyncExitStack] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.target = f"unix:{self.folder}/target"
        self.draft = f"unix:{self.folder}/draft"

    async def start_target(self, host: EngineHost, name: str = "target") -> str:
        """Serves the target, or another one beside it; returns its address."""
        address = f"unix:{self.folder}/{name}"
        await self._start(name, serving_target(host, address))
        return address

    async def start_draft(self, draft: Any) -> None:
        """Serves the draft: an engine, or a servicer of the test's own."""
        await self._start("draft", serving_draft(draft, self.draft))

    async def start_session(
        self,
        name: str = "session",
        *,
        target: str | None = None,
        with_draft: bool = True,
        lease_seconds: float | None = None,
        defaults_of_model: bool = False,
        served: Callable[..., ServedModel] = ServedModel.of,
        **settings: Any,
    ) -> SessionService:
        """Serves sessions; all session services of a stack share one ledger file."""
        draft = self.draft if with_draft else None
        service = serving_session(
            f"unix:{self.folder}/{name}",
            target or self.target,
            draft,
            self.folder / "ledger.db",
            LoopSettings(**settings),
            lease_seconds,
            defaults_of_model,
            served,
        )
        return await self._start(name, service)

    async def kill(self, name: str) -> None:
        """Stops a service at once: its calls are cut off, its address refuses."""
        await self.services.pop(name).aclose()

    async def close(self) -> None:
        """Stops what runs, the session service first."""
        for name in reversed(list(self.services)):
            await self.kill(name)

    async def _start(self, name: str, service: Any) -> Any:
        exits = AsyncExitStack()
        started = await exits.enter_async_context(service)
        self.services[name] = exits
        return started


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Returns when `holds` does; fails the test when it does not in time."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not await holds():  # noqa: ASYNC110 - what is waited for happens in other services
            await asyncio.sleep(0.005)


async def until_idle(session: outrider.AsyncSession) -> outrider.SessionInfo:
    """The session once its turn has ended and is recorded."""

    async def idle() -> bool:
        return not (await session.info()).turn_running

    await until(idle)
    return await session.info(with_tokens=True)


@asynccontextmanager
async def taken_slots(target_address: str, count: int) -> AsyncIterator[None]:
    """Turns of other sessions hold so many slots of the target; at the end they are over."""
    async with grpc.aio.insecure_channel(target_address) as channel:
        stub = target_pb2_grpc.TargetServiceStub(channel)
        turns = [OneTurn(stub) for _ in range(count)]
        for number, turn in enumerate(turns):
            assert (await turn.ask(opening(f"busy {number}"))).HasField("opened")
        yield
        for turn in turns:
            await turn.leave()


async def generate(
    client: outrider.AsyncClient, prompt: Any = "def main():", **options: Any
) -> outrider.AsyncReply:
    """One turn of a new session, read to its end."""
    session = await client.create_session()
    return await session.generate(prompt, **options).read()


async def drain(reply: outrider.AsyncReply) -> list[int]:
    """Reads on after a fault, whatever the end; returns the tokens that came."""
    with contextlib.suppress(outrider.OutriderError):
        await reply.read()
    return reply.tokens
