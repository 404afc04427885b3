"""The cluster of a run: real services on simulated processes, started, broken and started again."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

import outrider
from outrider._calls import Calls
from outrider.v1 import draft_pb2_grpc, session_pb2_grpc, target_pb2_grpc
from outrider_server.core.errors import LedgerUnavailable
from outrider_server.draft.service import DraftServicer
from outrider_server.host.engine_host import EngineHost
from outrider_server.session.drafting import LoopSettings
from outrider_server.session.peers.drafts import Drafts
from outrider_server.session.peers.target_link import TargetLink
from outrider_server.session.peers.targets import Targets
from outrider_server.session.service import SessionServicer
from outrider_server.session.sessions import Sessions
from outrider_server.target.service import TargetServicer

from .clock import PROCESS, Process, VirtualLoop, surroundings
from .device import VirtualDevice
from .guesses import WatchedLink
from .ledger import MemoryStore, SimulatedLedger
from .model import ModelSettings, build_engine, served_model
from .network import CLIENT_KEEPALIVE_SECONDS, Network
from .rpc import Channel
from .scenario import DRAFTS, Fault, Scenario
from .serving import Server
from .talk import TEMPLATE
from .watch import Watch

MODEL = served_model(TEMPLATE)
RESTART_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class SessionService:
    """The parts of a session service that are asked about at the end."""

    sessions: Sessions
    targets: Targets
    drafts: Drafts | None


class Cluster:
    """All processes, the network between them, and the ledger, which alone outlives them."""

    def __init__(self, loop: VirtualLoop, scenario: Scenario, watch: Watch) -> None:
        self.scenario = scenario
        self.watch = watch
        self._around = surroundings(loop, scenario.seed)
        self.store = MemoryStore(lambda: self._around.wall_ns() // 1000)
        self.processes: list[Process] = []
        self.hosts: dict[Process, EngineHost] = {}
        self.sessions: dict[Process, SessionService] = {}
        self._loop = loop
        self._random = random.Random(scenario.seed + 1)
        self.network = Network(loop, self._random, scenario.longest_delay)
        self._calm = False
        self._ledger_down = 0
        self._answers_lost = 0
        self._ledger_hangs: dict[str, float] = {}

    def start_all(self) -> None:
        """Starts every service."""
        scenario = self.scenario
        for name in (*scenario.targets, *scenario.drafts, *scenario.services):
            self.start(name)

    def start(self, name: str) -> None:
        """Starts a service, with nothing in its memory."""
        if name in self.network.processes:
            return
        process = self._process(name)
        self.watch.note(f"{name} starts")
        process.server = Server()
        if name.startswith("session"):
            process.run(self._build_session, process)
        else:
            settings = self.scenario.draft if name in DRAFTS else self.scenario.target
            process.run(self._build_model, process, settings)

    def _process(self, name: str) -> Process:
        process = Process(self._loop, name)
        self.processes.append(process)
        self.network.processes[name] = process
        return process

    def _build_model(self, process: Process, settings: ModelSettings) -> None:
        engine = build_engine(settings, self._loop.spend, self._around.clock)
        device = VirtualDevice(engine, self._random, self.scenario.step_seconds)
        host = EngineHost(device, self.scenario.queue, chance=self._around.chance)
        self.hosts[process] = host
        if settings.agreement is None:
            target_pb2_grpc.add_TargetServiceServicer_to_server(
                TargetServicer(host), process.server
            )
        else:
            draft_pb2_grpc.add_DraftServiceServicer_to_server(DraftServicer(host), process.server)
        process.spawn(device.run())

    def _build_session(self, process: Process) -> None:
        scenario, around = self.scenario, self._around
        agreement = scenario.draft.agreement or 0.0

        def channel(address: str) -> Any:
            return Channel(self.network, process, lambda: address)

        def draft_at(address: str) -> WatchedLink:
            return WatchedLink(channel(address), around.clock, agreement, self.watch)

        targets = Targets(
            scenario.targets_of[process.name],
            lambda address: TargetLink(channel(address)),
            around.clock,
            around.chance,
        )
        targets._model = MODEL.description  # as after asking for it at the start
        drafts = Drafts(scenario.drafts, draft_at, around.clock) if scenario.drafts else None
        ledger = SimulatedLedger(self.store, self.watch, self._reach_ledger, self._leave_ledger)
        settings = LoopSettings(scenario.window, max(scenario.lead, scenario.window))
        sessions = Sessions(
            MODEL, targets, drafts, ledger, settings, around, scenario.lease_seconds
        )
        self.sessions[process] = SessionService(sessions, targets, drafts)
        session_pb2_grpc.add_SessionServiceServicer_to_server(
            SessionServicer(sessions), process.server
        )

    async def _reach_ledger(self) -> None:
        await self._ledger_delay()
        if self._ledger_down:
            raise LedgerUnavailable("the ledger cannot be reached", is_away=True)

    async def _leave_ledger(self) -> None:
        await self._ledger_delay()
        if self._answers_lost:
            raise LedgerUnavailable("the ledger's answer was lost", is_away=True)

    async def _ledger_delay(self) -> None:
        process = PROCESS.get()
        until = 0.0 if process is None else self._ledger_hangs.get(process.name, 0.0)
        delay = self.scenario.ledger_seconds * self._random.random() ** 2
        await asyncio.sleep(max(delay, until - self._loop.time()))

    def client(self, number: int | str, resume_ms: int, stickiness: float) -> tuple[Process, Any]:
        """A process with a client of the SDK, whose calls go to any session service."""
        process = self._process(f"client-{number}")
        last = self._random.choice(self.scenario.services)

        def resolve() -> str:
            nonlocal last
            if self._random.random() >= stickiness or last not in self.network.processes:
                last = self._random.choice(self.scenario.services)
            return last

        channel = Channel(self.network, process, resolve, CLIENT_KEEPALIVE_SECONDS)
        client: Any = outrider.AsyncClient("unix:simulated", resume_ms=resume_ms)
        connected, around = client._channel, self._around
        connected._grpc, connected._loop = channel, asyncio.get_running_loop()
        connected._stub = session_pb2_grpc.SessionServiceStub(channel)
        connected._clock = around.clock
        client._calls = Calls(
            connected, resume_ms / 1000, around.clock, around.chance.uniform, around.new_id
        )
        return process, client

    def schedule(self) -> None:
        """Lets the scenario's faults happen in their time."""
        for fault in self.scenario.faults:
            self._loop.later(fault.at, self._break, fault)

    def stop_faults(self) -> None:
        """What has not gone wrong yet goes well."""
        self._calm = True
        for process in self.processes:
            process.on_step.clear()

    def _break(self, fault: Fault) -> None:
        if self._calm:
            return
        self.watch.note(f"{fault.kind} at {fault.place} {fault.peer} for {fault.seconds} s")
        now = self._loop.time()
        process = self.network.processes.get(fault.place)
        if fault.kind == "partition":
            self.network.partition(fault.place, fault.peer, fault.seconds)
        elif fault.kind == "sever":
            for connection in list(self.network.connections):
                if connection.link == tuple(sorted((fault.place, fault.peer))):
                    self.network.sever(connection)
        elif fault.kind == "slow":
            self.network.slow(fault.place, 0.3, fault.seconds)
        elif fault.kind == "ledger":
            self._ledger_down += 1
            self._loop.later(now + fault.seconds, self._mend_ledger)
        elif fault.kind == "ledger mute":
            self._answers_lost += 1
            self._loop.later(now + fault.seconds, self._hear_ledger)
        elif fault.kind == "ledger hangs":
            self._ledger_hangs[fault.place] = now + fault.seconds
        elif process is None:
            return
        elif fault.kind == "freeze":
            self.network.freeze(process, fault.seconds)
        elif fault.kind == "crash at a step":
            process.on_step[process.steps + fault.steps] = lambda: self._crash(process, fault)
        else:
            self._crash(process, fault)

    def _mend_ledger(self) -> None:
        self._ledger_down -= 1

    def _hear_ledger(self) -> None:
        self._answers_lost -= 1

    def _crash(self, process: Process, fault: Fault) -> None:
        if process.alive:
            self.watch.note(f"{process.name} dies after {process.steps} steps")
            self.network.crash(process, silent=fault.kind == "lose")
            restart = self._loop.time() + min(fault.seconds, 2.0) + RESTART_SECONDS
            self._loop.later(restart, self.start, process.name)
