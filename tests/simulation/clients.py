"""What clients do: turn after turn through the SDK, again and again until each is whole."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import outrider
from outrider import errors

from .cluster import Cluster
from .scenario import FAULTY_SECONDS, ClientPlan, TurnPlan
from .watch import Watch

BUGS = (
    errors.InternalError,
    errors.CallerError,
    errors.PositionMismatchError,
    errors.ProtocolViolationError,
    errors.StreamBrokenError,
)
"""What no fault of this simulation may bring; some of their kinds are excepted below."""
RETRY_SECONDS = 0.2


def is_bug(error: outrider.OutriderError) -> bool:
    """True for an error that a client must never see, whatever fails around it."""
    if isinstance(error, errors.StreamBrokenError):
        return not error.message.startswith("the stream was lost")
    return isinstance(error, BUGS) and not isinstance(error, errors.TurnRunningError)


class SimulatedClient:
    """One client and its session."""

    def __init__(self, cluster: Cluster, number: int, plan: ClientPlan) -> None:
        self._plan = plan
        scenario = cluster.scenario
        self._contested = len(scenario.services) > 1 and scenario.lease_seconds is None
        self._watch: Watch = cluster.watch
        self.process, self.client = cluster.client(number, plan.resume_ms, plan.stickiness)
        self.rival_process, self.rival = cluster.client(f"{number}-rival", 2_000, 0.0)
        self._name = f"turn-{number}"
        self._session: Any = None
        self._began: Any = None
        self._wanted: tuple[str, TurnPlan] | None = None

    async def run(self) -> None:
        """Has every turn of the plan, each whole."""
        self._session = await self._until_done(self.client.create_session)
        for index, turn in enumerate(self._plan.turns):
            if index:
                await self._branch(self._plan.turns[index - 1])
            request_id = f"{self._name}-{index}"
            self._watch.intend(self._session.id, request_id, turn.intent)
            self._wanted = request_id, turn
            again = asyncio.create_task(self._ask_once_more(request_id, turn))
            await self._until_done(lambda r=request_id, t=turn: self._have(r, t))
            await again
            self._wanted = None
            await self._recall()

    async def _branch(self, last: TurnPlan) -> None:
        """Rewinds the session, goes on in a copy of it or takes the turn back, where the plan says so."""
        position = round(last.share * self._session.position)
        if last.then == "rewind":
            session = self._session
            self._watch.cuts(session.id, position)
            await self._until_done(lambda: session.rewind(position))
            self._watch.cuts(session.id, None)
        elif last.then == "fork":
            self._session = await self._until_done(lambda: self._session.fork(position))
        elif last.then == "back":
            position = self._watch.takes_back(self._session.id)
            await self._until_done(self._take_back)
        if last.then:
            await self._recall()
        self._watch.check(
            last.then == "" or self._session.position == position, "a session ends elsewhere"
        )

    async def _take_back(self) -> None:
        """As `regenerate` begins, which goes by the handle's last call: here that may be of another task."""
        session = self._session
        session._moved_to((await session._calls.take_back(session.id, self._began)).position)

    async def _recall(self) -> None:
        """Reads the conversation."""
        session = self._session
        self._watch.told(session.id, await self._until_done(session.messages))

    async def steal(self) -> None:
        """Takes turns over while they run, as another client of the same session."""
        for _ in range(self._plan.rivals):
            await asyncio.sleep(FAULTY_SECONDS / 10)
            wanted, session = self._wanted, self._session
            if wanted is None:
                continue
            with self._excusing(errors.NotFoundError, errors.PositionMismatchError):
                handle = await self.rival.open_session(session.id)
                await self._read(session, handle.attach(wanted[0]), wanted[0], 0.0, None)

    async def _until_done(self, attempt: Any) -> Any:
        while True:
            with self._excusing():
                return await attempt()
            await asyncio.sleep(RETRY_SECONDS)

    def _is_left_alone(self) -> bool:
        """True where nobody but faults comes between the client and its turn, and its SDK is patient."""
        plan, wanted = self._plan, self._wanted
        return (
            wanted is not None and plan.resume_ms >= 60_000 and not (plan.rivals or wanted[1].twice)
        )

    def _may_be(self, error: outrider.OutriderError) -> bool:
        """True where a turn was refused before it began: no room, or services that share a ledger without
        leases, each of which thinks the session its own."""
        refused = isinstance(error, errors.ExhaustedError)
        return refused or (self._contested and isinstance(error, errors.StaleEpochError))

    @contextlib.contextmanager
    def _excusing(self, *expected: type[outrider.OutriderError]) -> Any:
        try:
            yield
        except outrider.OutriderError as error:
            self._watch.note(f"gets {type(error).__name__}: {error}")
            if not isinstance(error, expected):
                bug = is_bug(error) or (self._is_left_alone() and not self._may_be(error))
                self._watch.check(not bug, f"a client got {error!r}")

    async def _ask_once_more(self, request_id: str, turn: TurnPlan) -> None:
        if turn.twice:
            await asyncio.sleep(0.05)
            with self._excusing():
                await self._have(request_id, turn)

    async def _have(self, request_id: str, turn: TurnPlan) -> None:
        if turn.leave_after is not None:
            reply = self._generate(request_id, turn)
            await self._read(self._session, reply, request_id, turn.read_seconds, turn.leave_after)
            reply.cancel()
            await asyncio.sleep(RETRY_SECONDS / 4)
        reply = self._generate(request_id, turn)
        await self._read(self._session, reply, request_id, turn.read_seconds, None)
        summary = reply.summary
        self._began = reply.started
        self._watch.ended(self._session.id, request_id, reply.tokens, summary)

    def _generate(self, request_id: str, turn: TurnPlan) -> Any:
        intent = turn.intent
        return self._session.generate(
            [{"role": "user", "content": intent.text}] if intent.chats else list(intent.prompt),
            max_new_tokens=intent.most,
            seed=intent.seed,
            stop=intent.stop,
            draft=turn.draft,
            loop=turn.loop,
            max_window=turn.max_window,
            request_id=request_id,
        )

    async def _read(
        self, session: Any, reply: Any, request_id: str, read_seconds: float, most: int | None
    ) -> None:
        due = 0
        if most == 0:
            return
        async for event in reply:
            self._watch.seen(session.id, request_id, due, event)
            due += 1
            if due == most:
                return
            if read_seconds:
                await asyncio.sleep(read_seconds)
