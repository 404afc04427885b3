"""The load: sessions whose turns run through the SDK, and what each of them saw.

Owns the clients. Every token is compared with the undisturbed run's when it arrives, and with the ledger's
when its session has said all it has to say. Knows nothing of faults.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import outrider

from .talks import Turn

Answer = TypeVar("Answer")

RESUME_MS = 180_000
RETRY_SECONDS = 0.1
OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@dataclass(slots=True)
class Count:
    """What came of the turns."""

    turns: int = 0
    tokens: int = 0
    lost: int = 0
    """Tokens of the undisturbed run that a finished turn, or the ledger, did not have."""
    repeated: int = 0
    different: int = 0
    uncommitted: int = 0
    """Tokens that a client saw and the ledger does not hold at their place."""
    degraded: int = 0
    failures: list[str] = field(default_factory=list)
    """Turns that did not finish, and why."""

    @property
    def spotless(self) -> bool:
        """True when every turn finished with the right tokens."""
        return not (
            self.lost or self.repeated or self.different or self.uncommitted or self.failures
        )


@dataclass(slots=True, eq=False)
class RunningTurn:
    """A turn under way, and when anything of it arrived."""

    length: int
    arrivals: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    """When the SDK called the service for it: once, and for each time that it was resumed."""
    ended: bool = False


class News:
    """Wakes who waits for something to happen in the load, whatever it is."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Something arrived, or a turn began or ended, or was asked for."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def wait(self) -> None:
        """Returns when something happens."""
        await self._event.wait()


class Speaker:
    """One session after another, each saying the same; `turn` is the one under way, or was last."""

    def __init__(self, address: str, talk: Sequence[Turn], count: Count, news: News) -> None:
        self.turn = RunningTurn(0, ended=True)
        self.expected: list[list[int]] = []
        self._address = address
        self._talk = talk
        self._count = count
        self._news = news

    async def rehearse(self) -> None:
        """Says everything undisturbed, which is what all else is compared with."""
        async with self._client() as client:
            session = await client.create_session()
            for turn in self._talk:
                reply = await session.generate(turn.prompt, **turn.options)
                self.expected.append(reply.tokens)

    async def speak(self, stop: asyncio.Event) -> None:
        """Says everything over and over, until the session after `stop`."""
        async with self._client() as client:
            while not stop.is_set():
                session = await _persist(client.create_session)
                seen = [
                    await self._say(session, turn, expected)
                    for turn, expected in zip(self._talk, self.expected, strict=True)
                ]
                info = await _persist(lambda s=session: s.info(with_tokens=True))
                self._compare_with_ledger(info, seen)

    def _client(self) -> outrider.AsyncClient:
        """A client whose headers, made anew for each call, tell of calls."""

        def called() -> dict[str, str]:
            self.turn.calls.append(time.monotonic())
            self._news.tell()
            return {}

        return outrider.AsyncClient(
            self._address, channel_options=OWN_CONNECTION, metadata=called, resume_ms=RESUME_MS
        )

    async def _say(
        self, session: outrider.AsyncSession, turn: Turn, expected: Sequence[int]
    ) -> outrider.AsyncReply:
        running = self.turn = RunningTurn(len(expected))
        reply = session.generate(turn.prompt, **turn.options)
        self._news.tell()
        due = 0
        try:
            async for event in reply:
                running.arrivals.append(time.monotonic())
                self._news.tell()
                self._count.tokens += 1
                self._count.repeated += event.index < due
                self._count.different += (
                    event.index >= len(expected) or event.token != expected[event.index]
                )
                due = event.index + 1
            self._count.lost += len(expected) - len(reply.tokens)
            self._count.degraded += reply.summary.degraded
        except outrider.OutriderError as error:
            self._count.failures.append(f"{type(error).__name__} after {due} tokens: {error}")
        self._count.turns += 1
        running.ended = True
        running.arrivals.append(time.monotonic())
        self._news.tell()
        return reply

    def _compare_with_ledger(
        self, info: outrider.SessionInfo, seen: Sequence[outrider.AsyncReply]
    ) -> None:
        assert info.tokens is not None
        held = list(info.tokens)
        generated = sum(len(expected) for expected in self.expected)
        prompts = 0
        for reply in seen:
            if reply.started is None:
                continue
            start = reply.started.start_position
            prompts += reply.started.prompt_tokens
            committed = held[start : start + len(reply.tokens)]
            self._count.uncommitted += len(reply.tokens) - len(committed)
            self._count.uncommitted += sum(
                map(int.__ne__, committed, reply.tokens[: len(committed)])
            )
        self._count.lost += max(0, prompts + generated - len(held))
        self._count.repeated += max(0, len(held) - prompts - generated)


async def _persist(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """The answer to a call that the SDK does not repeat by itself."""
    deadline = time.monotonic() + RESUME_MS / 1000
    while True:
        try:
            return await call()
        except (outrider.UnavailableError, outrider.DeadlineError):
            assert time.monotonic() < deadline, "the session service did not come back"
            await asyncio.sleep(RETRY_SECONDS)
