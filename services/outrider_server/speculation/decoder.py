"""The algorithm: propose, verify, commit, repeat. Knows neither gRPC nor torch.

`decode_synchronously` is the plain loop: draft and target take turns. `decode_ahead` is the fast one: the
draft guesses on while the target verifies, and the ledger writes one round while the next one is being
verified. Both emit the same tokens, because every token is the target's own draw and depends on the tokens
before it alone; they differ in time only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator

from ..core.costs import RoundCost
from ..core.types import Proposal, Round, Verdict
from .ports import Drafter, Meter, Recorder, Verifier
from .turn import Turn

ROUNDS_AHEAD = 8


async def decode_synchronously(
    turn: Turn,
    verifier: Verifier,
    drafter: Drafter,
    recorder: Recorder,
    meter: Meter | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Round]:
    """Yields the turn's rounds, each recorded before it is yielded. Waits for a full window each time.

    `clock`, in seconds, times them; `meter` learns what they cost.

    Only the first round waits for no proposal, in both loops, so that the first token comes as soon as the
    target alone could bring it. Raises what the verifier or the recorder raises; rounds yielded before
    stand.
    """
    minimum = 0
    rounds = _Rounds(turn, verifier, drafter, meter, clock)
    while turn.finish_reason is None:
        decided = await rounds.decide(minimum)
        await recorder.record([decided])
        yield decided
        minimum = turn.window


async def decode_ahead(
    turn: Turn,
    verifier: Verifier,
    drafter: Drafter,
    recorder: Recorder,
    meter: Meter | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Round]:
    """Yields the turn's rounds, each recorded before it is yielded, while the next is being verified.

    A round waits for the guesses that its drafter thinks worth waiting for, at least one where it is asked.
    Rounds that were decided while the ledger wrote others are written together, so a slow disk delays tokens
    and holds nothing up; at most `ROUNDS_AHEAD` are decided and not yet taken. `meter` and `clock` as in
    `decode_synchronously`. Raises what the verifier or the recorder raises; rounds yielded before stand.
    """
    decided_rounds: asyncio.Queue[Round | None] = asyncio.Queue()
    room = asyncio.Semaphore(ROUNDS_AHEAD)
    rounds = _Rounds(turn, verifier, drafter, meter, clock)
    playing = asyncio.create_task(_play(turn, rounds, decided_rounds, room))
    try:
        while (decided := await decided_rounds.get()) is not None:
            waiting = [decided, *_taken(decided_rounds)]
            await recorder.record(waiting)
            for decided in waiting:
                yield decided
                room.release()
        await playing
    finally:
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)


def _taken(rounds: asyncio.Queue[Round | None]) -> Iterator[Round]:
    """What waits in the queue, up to the end mark, which stays."""
    while not rounds.empty():
        decided = rounds.get_nowait()
        if decided is None:
            rounds.put_nowait(None)
            return
        yield decided


async def _play(
    turn: Turn,
    rounds: _Rounds,
    decided_rounds: asyncio.Queue[Round | None],
    room: asyncio.Semaphore,
) -> None:
    """Decides round after round in one go: between a verdict and the next step nothing else runs."""
    minimum = 0
    try:
        while turn.finish_reason is None:
            await room.acquire()
            decided_rounds.put_nowait(await rounds.decide(minimum))
            minimum = 1
    finally:
        decided_rounds.put_nowait(None)


class _Rounds:
    """Decides a turn's rounds, one at a time, and times them."""

    def __init__(
        self,
        turn: Turn,
        verifier: Verifier,
        drafter: Drafter,
        meter: Meter | None,
        clock: Callable[[], float],
    ) -> None:
        self._turn = turn
        self._verifier = verifier
        self._drafter = drafter
        self._meter = meter
        self._clock = clock
        self._last_verdict: float | None = None

    async def decide(self, minimum: int) -> Round:
        """The next round; waits for so many guesses, as far as its window has room for them."""
        turn, window = self._turn, self._turn.window
        proposal = await self._drafter.take(turn.position, min(minimum, window), window)
        step = turn.step(proposal)
        asked = self._clock()
        verdict = await self._verifier.verify(step)
        cost = self._cost(asked, proposal, verdict)
        decided = turn.close_round(step, proposal, verdict, cost)
        if self._meter is not None:
            self._meter.observe(decided)
        self._drafter.commit(decided.start_position, decided.tokens)
        return decided

    def _cost(self, asked: float, proposal: Proposal, verdict: Verdict) -> RoundCost:
        now, before = self._clock(), self._last_verdict
        self._last_verdict = now
        return RoundCost(
            verify_ms=(now - asked) * 1000,
            step_ms=verdict.step_ms,
            prefill_ms=verdict.prefill_ms,
            since_ms=None if before is None else (now - before) * 1000,
            waited_ms=proposal.waited_ms,
            guesses=proposal.spent,
        )
