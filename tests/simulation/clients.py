"""What clients do: turn after turn through the SDK, again and again until each is whole."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import outrider
from outrider import errors

from .cluster import Cluster
from .scenario import FAULTY_SECONDS, ClientPlan, TurnPlan
from .watch import Intent, Watch

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
        self._wanted: tuple[str, TurnPlan] | None = None

    async def run(self) -> None:
        """Has every turn of the plan, each whole."""
        self._session = await self._until_done(self.client.create_session)
        for index, turn in enumerate(self._plan.turns):
            if index:
                await self._branch(self._plan.turns[index - 1])
            request_id = f"{self._name}-{index}"
            intent = Intent(turn.prompt, turn.seed, turn.stop, turn.most)
            self._watch.intend(self._session.id, request_id, intent)
            self._wanted = request_id, turn
            again = asyncio.create_task(self._ask_once_more(request_id, turn))
            await self._until_done(lambda r=request_id, t=turn: self._have(r, t))
            await again
            self._wanted = None

    async def _branch(self, last: TurnPlan) -> None:
        """Rewinds the session or goes on in a copy of it, where the plan says so after a turn."""
        position = round(last.share * self._session.position)
        if last.then == "rewind":
            session = self._session
            self._watch.cuts(session.id, position)
            await self._until_done(lambda: session.rewind(position))
            self._watch.cuts(session.id, None)
        elif last.then == "fork":
            self._session = await self._until_done(lambda: self._session.fork(position))
        self._watch.check(
            last.then == "" or self._session.position == position, "a session ends elsewhere"
        )

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
        self._watch.ended(self._session.id, request_id, reply.tokens, summary)

    def _generate(self, request_id: str, turn: TurnPlan) -> Any:
        return self._session.generate(
            list(turn.prompt),
            max_new_tokens=turn.most,
            seed=turn.seed,
            stop=turn.stop,
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
