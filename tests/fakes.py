"""Fakes for the ports of the decode loop: a target that is a function, and drafters of every character."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from outrider_server.core.types import (
    Accepted,
    FinishReason,
    Proposal,
    Round,
    Step,
    TokenLogprobs,
    TokenSource,
    Verdict,
    decide,
    tokens_digest,
)

VOCABULARY = 5


def next_token(prefix: Sequence[int]) -> int:
    """The fake target: a token is a function of the tokens before it, and of nothing else."""
    return tokens_digest(prefix)[0] % VOCABULARY


def continuation(prompt: Sequence[int], count: int) -> tuple[int, ...]:
    """What the fake target alone writes after a prompt."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tuple(tokens[len(prompt) :])


class HashVerifier:
    """Verifier over `next_token`. Holds the tokens that it was sent, as a slot does, and checks them."""

    def __init__(self, known: Sequence[int] = (), checkpoints: int = 0) -> None:
        self._held = list(known)
        self._checkpoints = checkpoints
        self.steps: list[Step] = []
        self.started = asyncio.Event()
        self.cancelled = 0

    async def verify(self, step: Step) -> Verdict:
        assert step.start_position <= len(self._held), "the step leaves a gap"
        assert step.context_tokens, "a step needs something to continue from"
        self.steps.append(step)
        self.started.set()
        try:
            for _ in range(self._checkpoints):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        prefix = self._held[: step.start_position] + list(step.context_tokens)
        whole = prefix + list(step.proposed_tokens)
        drawn = [next_token(whole[:end]) for end in range(len(prefix), len(whole) + 1)]
        agreed = decide(step.proposed_tokens, drawn)
        self._held = prefix + drawn[:agreed]
        logprobs = tuple(TokenLogprobs(-float(token)) for token in drawn[: agreed + 1])
        return Verdict(step.decided_position, agreed, tuple(drawn[: agreed + 1]), logprobs)


class LengthEnd:
    """Ends a turn after so many tokens, or with the end token."""

    def __init__(self, max_new_tokens: int, end_token: int | None = None) -> None:
        self._remaining = max_new_tokens
        self._end_token = end_token

    def accept(self, tokens: Sequence[int]) -> Accepted:
        kept, reason = 0, None
        for token in tokens:
            kept += 1
            self._remaining -= 1
            if token == self._end_token:
                reason = FinishReason.END_TOKEN
            elif not self._remaining:
                reason = FinishReason.LENGTH
            if reason is not None:
                break
        return Accepted(kept, tuple(str(token) for token in tokens[:kept]), reason)


class ListRecorder:
    """Remembers rounds; fails at round `fail_at` if told to, and takes `checkpoints` turns of the loop."""

    def __init__(self, fail_at: int | None = None, checkpoints: int = 0) -> None:
        self.rounds: list[Round] = []
        self._fail_at = fail_at
        self._checkpoints = checkpoints

    async def record(self, rounds: Sequence[Round]) -> None:
        for _ in range(self._checkpoints):
            await asyncio.sleep(0)
        if self._fail_at is not None and len(self.rounds) + len(rounds) > self._fail_at:
            raise OSError("the disk is full")
        self.rounds += rounds


class ScriptedDrafter:
    """Guesses the target's tokens, each wrong with probability `error_rate`; checks what it is told.

    `offset` lies about the position, `dies_at` proposes nothing from that position on, `checkpoints` is
    how many turns of the loop a guess takes, `longer` proposes more than was asked for.
    """

    def __init__(
        self,
        prompt: Sequence[int],
        error_rate: float = 0.0,
        seed: int = 0,
        offset: int = 0,
        dies_at: int | None = None,
        checkpoints: int = 0,
        longer: int = 0,
    ) -> None:
        self.tokens = list(prompt)
        self.taken: list[tuple[int, int, int]] = []
        self._random = random.Random(seed)
        self._error_rate = error_rate
        self._offset = offset
        self._dies_at = dies_at
        self._checkpoints = checkpoints
        self._longer = longer

    async def take(self, position: int, minimum: int, maximum: int) -> Proposal:
        assert position == len(self.tokens), "the loop takes where it stands"
        assert 0 <= minimum <= maximum
        self.taken.append((position, minimum, maximum))
        for _ in range(self._checkpoints):
            await asyncio.sleep(0)
        if self._dies_at is not None and position >= self._dies_at:
            return Proposal(position)
        guesses: list[int] = []
        for _ in range(maximum + self._longer):
            right = next_token(self.tokens + guesses)
            wrong = self._random.random() < self._error_rate
            guesses.append((right + 1) % VOCABULARY if wrong else right)
        return Proposal(position + self._offset, tuple(guesses), TokenSource.DRAFT)

    def commit(self, start_position: int, tokens: Sequence[int]) -> None:
        assert start_position == len(self.tokens), "commits leave no gap"
        self.tokens += tokens
