"""The algorithm: propose, verify, commit, repeat. Knows neither gRPC nor torch.

`decode_synchronously` is the plain loop: draft and target take turns. `decode_ahead` is the fast one: the
draft guesses on while the target verifies, and the ledger writes one round while the next one is being
verified. Both emit the same tokens, because every token is the target's own draw and depends on the tokens
before it alone; they differ in time only.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from .ports import Drafter, Recorder, Verifier
from .turn import Turn
from .types import Round


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
        await recorder.record(decided)
        yield decided
        minimum = turn.window


async def decode_ahead(
    turn: Turn, verifier: Verifier, drafter: Drafter, recorder: Recorder
) -> AsyncIterator[Round]:
    """Yields the turn's rounds, each recorded before it is yielded, while the next is being verified.

    A round waits for one guess and takes what has arrived. Raises what the verifier or the recorder raises;
    rounds yielded before stand.
    """
    following: asyncio.Task[Round] | None = asyncio.create_task(
        _round(turn, verifier, drafter, minimum=0)
    )
    try:
        while following is not None:
            decided = await following
            following = None
            if turn.finish_reason is None:
                following = asyncio.create_task(_round(turn, verifier, drafter, minimum=1))
            await recorder.record(decided)
            yield decided
    finally:
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def _round(turn: Turn, verifier: Verifier, drafter: Drafter, minimum: int) -> Round:
    window = turn.window
    proposal = await drafter.take(turn.position, min(minimum, window), window)
    step = turn.step(proposal)
    verdict = await verifier.verify(step)
    decided = turn.close_round(step, proposal, verdict)
    drafter.commit(decided.start_position, decided.tokens)
    return decided
