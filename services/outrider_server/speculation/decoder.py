"""The algorithm: propose, verify, commit, repeat. Knows neither gRPC nor torch.

`decode_synchronously` is the plain loop: draft and target take turns. `decode_ahead` is the fast one: the
draft guesses on while the target verifies, and the ledger writes one round while the next one is being
verified. Both emit the same tokens, because every token is the target's own draw and depends on the tokens
before it alone; they differ in time only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

from ..core.types import Round
from .ports import Drafter, Recorder, Verifier
from .turn import Turn

ROUNDS_AHEAD = 8


async def decode_synchronously(
    turn: Turn, verifier: Verifier, drafter: Drafter, recorder: Recorder
) -> AsyncIterator[Round]:
    """Yields the turn's rounds, each recorded before it is yielded. Waits for a full window each time.

    Only the first round waits for no proposal, in both loops, so that the first token comes as soon as the
    target alone could bring it. Raises what the verifier or the recorder raises; rounds yielded before
    stand.
    """
    minimum = 0
    while turn.finish_reason is None:
        decided = await _round(turn, verifier, drafter, minimum)
        await recorder.record([decided])
        yield decided
        minimum = turn.window


async def decode_ahead(
    turn: Turn, verifier: Verifier, drafter: Drafter, recorder: Recorder
) -> AsyncIterator[Round]:
    """Yields the turn's rounds, each recorded before it is yielded, while the next is being verified.

    A round waits for the guesses that its drafter thinks worth waiting for, at least one where it is asked.
    Rounds that were decided while the ledger wrote others are written together, so a slow disk delays tokens
    and holds nothing up; at most `ROUNDS_AHEAD` are decided and not yet taken. Raises what the verifier or
    the recorder raises; rounds yielded before stand.
    """
    rounds: asyncio.Queue[Round | None] = asyncio.Queue()
    room = asyncio.Semaphore(ROUNDS_AHEAD)
    playing = asyncio.create_task(_play(turn, verifier, drafter, rounds, room))
    try:
        while (decided := await rounds.get()) is not None:
            waiting = [decided, *_taken(rounds)]
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
    verifier: Verifier,
    drafter: Drafter,
    rounds: asyncio.Queue[Round | None],
    room: asyncio.Semaphore,
) -> None:
    """Decides round after round in one go: between a verdict and the next step nothing else runs."""
    minimum = 0
    try:
        while turn.finish_reason is None:
            await room.acquire()
            rounds.put_nowait(await _round(turn, verifier, drafter, minimum))
            minimum = 1
    finally:
        rounds.put_nowait(None)


async def _round(turn: Turn, verifier: Verifier, drafter: Drafter, minimum: int) -> Round:
    window = turn.window
    proposal = await drafter.take(turn.position, min(minimum, window), window)
    step = turn.step(proposal)
    verdict = await verifier.verify(step)
    decided = turn.close_round(step, proposal, verdict)
    drafter.commit(decided.start_position, decided.tokens)
    return decided
