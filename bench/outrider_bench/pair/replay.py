"""Replies played anew through the session service's own loop, drafters and pacing, in virtual time.

Real is everything that decides: the loop, the drafters of adaptive turns with their meter, n-grams, the link
to the draft and its job, how many guesses a step keeps. Recorded are the tokens and the guesses, measured
the times of steps and of what a round takes outside the models, ledger and client included.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from outrider_server.core.types import (
    Draw,
    SamplingParams,
    Step,
    TokenSource,
    Verdict,
    decide,
)
from outrider_server.engine.layout import Layout
from outrider_server.engine.scheduling.batching import plan_rows
from outrider_server.engine.step_costs import StepCosts
from outrider_server.pacing.crowd import Crowd
from outrider_server.pacing.meter import CostMeter, TurnMeter
from outrider_server.pacing.pacer import Pacer
from outrider_server.pacing.window import USUAL_LEAD, USUAL_WINDOW
from outrider_server.session.ngrams import NgramMemory
from outrider_server.session.peers.draft_link import DraftedTurn, RemoteDrafter
from outrider_server.speculation.decoder import decode_ahead
from outrider_server.speculation.drafters import NoDrafter
from outrider_server.speculation.paced import PacedDrafter
from outrider_server.speculation.paced_ngram import PacedNgramDrafter
from outrider_server.speculation.ports import Drafter
from outrider_server.speculation.turn import Turn

from ..colocated import LengthEnd, NoLedger
from .costs import PairTimes
from .machine import Machine
from .replayed_draft import ReplayedDraft
from .replied import Reply
from .virtual_time import run_virtually

MODES = ("off", "ngram", "model", "auto")
DRAFTED = ("model", "auto")
"""Modes that need a draft."""
PACKED = Layout(USUAL_WINDOW + 1, packed=True, scratch_slot=0)
VOCABULARY = (1 << 31) - 1
"""More than any token id."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """One turn as it would go."""

    tokens: int
    rounds: int
    total_ms: float
    """From the request to the last token."""
    by_source: dict[str, int]
    """Tokens by who wrote them first."""


def replay(
    replies: Sequence[Reply], times: PairTimes, mode: str, distance_ms: float = 0.0
) -> list[Replayed]:
    """The replies one after the other, each in a session of its own, with a draft that is so far away."""
    return run_virtually(_replayed(replies, times, mode, distance_ms))


async def _replayed(
    replies: Sequence[Reply], times: PairTimes, mode: str, distance_ms: float
) -> list[Replayed]:
    service = _Service(times, mode, distance_ms)
    return [await service.turn(f"session {index}", reply) for index, reply in enumerate(replies)]


class _Service:
    """A session service that has nothing else to do, and learns what its rounds cost."""

    def __init__(self, times: PairTimes, mode: str, distance_ms: float) -> None:
        self._mode = mode
        self._outside_seconds = times.outside_ms / 1000
        self._way_seconds = (times.way_ms + distance_ms) / 2000
        self._machine = Machine(times)
        self._step_costs = StepCosts(list(enumerate(times.target.step_ms, 1)))
        self._costs = CostMeter(USUAL_WINDOW + 1)
        self._ngrams = NgramMemory()

    async def turn(self, session_id: str, reply: Reply) -> Replayed:
        clock = asyncio.get_running_loop().time
        began = clock()
        await asyncio.sleep(self._outside_seconds)  # the target opens the session
        count, prompt = len(reply.tokens), reply.prompt.tokens
        turn = Turn(prompt, 0, USUAL_WINDOW, LengthEnd(count), count)
        verifier = _ReplayedTarget(reply, self._machine, self._outside_seconds, self._step_costs)
        meter = TurnMeter(self._costs, resting=self._mode not in DRAFTED)
        model = self._drafter(reply) if self._mode in DRAFTED else None
        drafter = self._proposing(session_id, prompt, model, meter)
        rounds, sources = 0, Counter[TokenSource]()
        async for decided in decode_ahead(turn, verifier, drafter, NoLedger(), meter, clock):
            rounds += 1
            sources.update(decided.sources)
        if model is not None:
            model.close()
        by_source = {source.value: sources[source] for source in TokenSource}
        return Replayed(count, rounds, (clock() - began) * 1000, by_source)

    def _proposing(
        self, session_id: str, prompt: Sequence[int], model: RemoteDrafter | None, meter: TurnMeter
    ) -> Drafter:
        """What the session service lets propose in this mode."""
        by_ngram = self._mode in ("auto", "ngram")
        ngram = self._ngrams.open(session_id, prompt) if by_ngram else None
        if model is not None:
            pacer = Pacer(self._ngrams.agreement(session_id), USUAL_WINDOW)
            return PacedDrafter(model, ngram, pacer, meter, Crowd(), USUAL_WINDOW)
        return PacedNgramDrafter(ngram, meter, Crowd()) if ngram else NoDrafter()

    def _drafter(self, reply: Reply) -> RemoteDrafter:
        drafted = DraftedTurn(
            session_id="replay",
            epoch=1,
            tokens=reply.prompt.tokens,
            kept=0,
            draw=Draw(SamplingParams(temperature=reply.temperature), reply.prompt.seed, 0),
            lead=USUAL_LEAD,
            burst=1,
            vocabulary_fingerprint="",
            vocabulary_size=VOCABULARY,
        )
        stream = cast(Any, ReplayedDraft(reply, self._machine, self._way_seconds))
        return RemoteDrafter(stream, drafted, asyncio.get_running_loop().time).start()


class _ReplayedTarget:
    """A verifier that decides what was replied."""

    def __init__(
        self,
        reply: Reply,
        machine: Machine,
        outside_seconds: float,
        costs: StepCosts,
    ) -> None:
        self._reply = reply
        self._machine = machine
        self._outside_seconds = outside_seconds
        self._costs = costs
        self._ended = asyncio.get_running_loop().time()

    async def verify(self, step: Step) -> Verdict:
        """Takes as long as a step of its tokens, and what a round takes outside the models."""
        context = len(step.context_tokens) - 1
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(self._outside_seconds / 2)
        self._costs.waited((clock() - self._ended) * 1000)
        demand = (len(step.proposed_tokens) + 1, step.survival)
        (kept,) = plan_rows([demand], PACKED, self._costs.step_ms())
        proposed = step.proposed_tokens[: kept - 1]
        spent_ms = await self._machine.verify(context, kept)
        self._ended = clock()
        await asyncio.sleep(self._outside_seconds / 2)
        position = step.decided_position - len(self._reply.prompt.tokens)
        drawn = self._reply.tokens[position : position + len(proposed) + 1]
        agreed = decide(proposed, drawn)
        prefill_ms = spent_ms if context else 0.0
        return Verdict(
            step.decided_position,
            agreed,
            drawn[: agreed + 1],
            verified=len(proposed),
            step_ms=spent_ms - prefill_ms,
            prefill_ms=prefill_ms,
        )
