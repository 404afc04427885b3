"""Conversations whose every token is known beforehand, and a turn of one of them as its client sees it.

What is expected is what the target says alone, in a session that nobody disturbs. Many sessions may hold the
same talk: they differ from those of other talks in prompts and in seeds.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import outrider

from .prompts import Prompts

TEMPERATURE = 0.7
SERIES = 1000
"""Between the seeds of two talks."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One input of a talk. `reply_tokens` is the most that it asks for."""

    prompt: tuple[int, ...]
    seed: int
    reply_tokens: int


@dataclass(frozen=True, slots=True)
class Talk:
    """The turns of one conversation, and the tokens that each is answered with."""

    turns: tuple[Turn, ...]
    expected: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a turn brought. `held_tokens` are the session's before it."""

    tokens: tuple[int, ...]
    first_ms: float
    """From the request to the first token, at the client."""
    prompt_tokens: int
    held_tokens: int
    prefilled_tokens: int


def make_talks(
    prompts: Prompts,
    count: int,
    turns: int,
    first_tokens: int,
    later_tokens: int,
    reply_tokens: int,
) -> list[Talk]:
    """Talks of so many turns: a first input of `first_tokens`, then inputs of `later_tokens`."""
    return [
        Talk(
            tuple(
                Turn(
                    prompts.take_short(later_tokens)
                    if turn
                    else prompts.take_long(first_tokens)[1],
                    SERIES * talk + turn,
                    reply_tokens,
                )
                for turn in range(turns)
            )
        )
        for talk in range(count)
    ]


def longest_tokens(talk: Talk) -> int:
    """The most tokens that a session of the talk can come to hold, one for its beginning included."""
    return 1 + sum(len(turn.prompt) + turn.reply_tokens for turn in talk.turns)


async def rehearsed(client: outrider.AsyncClient, talks: Sequence[Talk]) -> list[Talk]:
    """The talks with what the target answers alone, each in a session of its own that is deleted afterwards.

    Raises OutriderError.
    """
    known = []
    for talk in talks:
        session = await client.create_session()
        answers = [await say(session, turn, "off") for turn in talk.turns]
        await session.delete()
        known.append(Talk(talk.turns, tuple(answer.tokens for answer in answers)))
    return known


async def say(session: outrider.AsyncSession, turn: Turn, draft: outrider.DraftMode) -> Answer:
    """Runs one turn. Raises OutriderError."""
    reply = session.generate(
        turn.prompt,
        max_new_tokens=turn.reply_tokens,
        temperature=TEMPERATURE,
        seed=turn.seed,
        draft=draft,
    )
    asked = time.perf_counter()
    first: float | None = None
    async for _ in reply:
        first = first or time.perf_counter()
    assert reply.started is not None, "a turn that ended well had begun"
    prompt_tokens = reply.started.prompt_tokens
    return Answer(
        tuple(reply.tokens),
        1000 * ((first or time.perf_counter()) - asked),
        prompt_tokens,
        reply.started.start_position - prompt_tokens,
        reply.summary.prefilled_tokens,
    )
