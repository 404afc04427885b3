"""What is held against every architecture: logits, greedy tokens, the promise, further turns."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

import torch
from outrider_server.core.types import (
    Accepted,
    Draw,
    FinishReason,
    Round,
    SamplingParams,
    TokenSource,
)
from outrider_server.engine.engine import Engine
from outrider_server.engine.layout import Row
from outrider_server.host.engine_host import EngineHost
from outrider_server.host.local import LocalVerifier
from outrider_server.speculation.decoder import decode_synchronously
from outrider_server.speculation.turn import Turn
from transformers import PreTrainedModel

from .drafters import KINDS, make_drafter
from .subject import sample_tokens

PROMPT_TOKENS = 112
NEW_TOKENS = 24
"""Prompt and reply cross the block of 128 keys in which the cache is read."""
GREEDY = SamplingParams(temperature=0.0)
SAMPLED = SamplingParams(temperature=1.0)
WINDOWS = (0, 3, 7)
MORE_AT_ONCE = ((7, "often right"), (3, "lying"), (0, "ngram"), (5, "often right"))
_numbers = itertools.count()


class Limit:
    """Ends a turn after NEW_TOKENS."""

    def __init__(self) -> None:
        self._left = NEW_TOKENS

    def accept(self, tokens: tuple[int, ...]) -> Accepted:
        kept = min(self._left, len(tokens))
        self._left -= kept
        return Accepted(kept, ("",) * kept, None if self._left else FinishReason.LENGTH)


class Nowhere:
    """Records nothing."""

    async def record(self, rounds: Sequence[Round]) -> None:
        del rounds


@dataclass(frozen=True, slots=True)
class Case:
    """One turn: what it continues, how it draws, who drafts."""

    tokens: tuple[int, ...]
    sampling: SamplingParams
    window: int = 0
    kind: str = "none"

    @property
    def key(self) -> tuple[tuple[int, ...], float]:
        """What decides the reply, if the promise holds."""
        return self.tokens, self.sampling.temperature


@dataclass(frozen=True, slots=True)
class Told:
    """A turn's reply, how many of its tokens were guessed, and what KV it began with."""

    tokens: tuple[int, ...]
    guessed: int
    known_length: int


async def tell(host: EngineHost, case: Case, truth: Sequence[int] = (), session: str = "") -> Told:
    """Runs one turn, in a session of its own unless one is named."""
    draw = Draw(case.sampling, seed=11, generated_from=len(case.tokens))
    name = session or f"session {next(_numbers)}"
    verifier = await LocalVerifier.open(host, name, 1, case.tokens, draw)
    turn = Turn(case.tokens, verifier.known_length, case.window, Limit(), NEW_TOKENS)
    drafter = make_drafter(case.kind, case.tokens, truth)
    tokens: list[int] = []
    guessed = 0
    async with aclosing(decode_synchronously(turn, verifier, drafter, Nowhere())) as rounds:
        async for decided in rounds:
            tokens += decided.tokens
            guessed += sum(source is not TokenSource.TARGET for source in decided.sources)
    await verifier.close()
    return Told(tuple(tokens), guessed, verifier.known_length)


def engine_logits(engine: Engine, tokens: tuple[int, ...], prefilled: int) -> torch.Tensor:
    """Logits [T - prefilled, V] after a prefill, by steps of several sizes beside a busy neighbour."""
    runner, limits = engine.runner, engine.limits
    for start in range(0, prefilled, limits.prefill_width):
        end = min(start + limits.prefill_width, prefilled)
        runner.prefill(Row(2, start, tokens[start:end]))
    pieces, start = [], prefilled
    sizes = itertools.cycle((1, 8, 3, 7))
    while start < len(tokens):
        part = tokens[start : start + next(sizes)]
        rows = [Row(0, 5, tokens[:4]), Row(2, start, part)]
        pieces.append(runner.logits(rows, 4)[1].clone())
        start += len(part)
    return torch.cat(pieces)


@torch.no_grad()
def library_logits(model: PreTrainedModel, tokens: tuple[int, ...]) -> torch.Tensor:
    """The library's full forward pass: float32 [T, V]."""
    return model(torch.tensor([tokens])).logits[0].float()


def logits_error(engine: Engine, model: PreTrainedModel) -> float:
    """The largest difference of a logit from the library's, in any position but the prefilled ones."""
    tokens = sample_tokens(1, PROMPT_TOKENS + NEW_TOKENS)
    got = engine_logits(engine, tokens, prefilled=37)
    return float((got - library_logits(model, tokens)[37:]).abs().max())


def library_error(model: PreTrainedModel, exact: PreTrainedModel) -> float:
    """The largest difference of a logit of the library in low precision from the same weights in float32."""
    tokens = sample_tokens(1, PROMPT_TOKENS + NEW_TOKENS)
    return float((library_logits(model, tokens) - library_logits(exact, tokens)).abs().max())


def library_greedy(model: PreTrainedModel, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """Greedy tokens of the library's `generate`."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
    )
    return tuple(out[0, len(prompt) :].tolist())


async def greedy_differences(host: EngineHost, model: PreTrainedModel, prompts: int) -> int:
    """How many prompts get other greedy tokens than from the library's `generate`."""
    differences = 0
    for seed in range(prompts):
        prompt = sample_tokens(20 + seed, PROMPT_TOKENS)
        told = await tell(host, Case(prompt, GREEDY, 7, "ngram"))
        differences += told.tokens != library_greedy(model, prompt)
    return differences


@dataclass(frozen=True, slots=True)
class PromiseOutcome:
    """Sequences compared with the target alone, those that differ, and tokens guessed right."""

    sequences: int
    differences: int
    guessed: int


def promise_cases() -> tuple[list[Case], list[list[Case]]]:
    """Sequences that run alone, and those that run four at once.

    Both samplings run with every window and drafter. Of those that propose, one of the two runs alone; all
    others run together, as what proposes nothing would only repeat the target alone.
    """
    samplings = (GREEDY, SAMPLED)
    prompts = [sample_tokens(40 + seed, PROMPT_TOKENS - 9 * seed) for seed in range(4)]
    alone: list[Case] = []
    beside: tuple[list[tuple[int, str]], ...] = ([], [])
    for (number, sampling), (at, each) in itertools.product(
        enumerate(samplings), enumerate(itertools.product(WINDOWS, KINDS))
    ):
        if each[0] and at % 2 == number:
            alone.append(Case(prompts[number], sampling, *each))
        else:
            beside[number].append(each)
    mixed = [*itertools.chain(*zip(*beside, strict=True)), *MORE_AT_ONCE]
    shared = [
        Case(prompts[number % 4], samplings[number % 2], *each) for number, each in enumerate(mixed)
    ]
    return alone, [shared[first : first + 4] for first in range(0, len(shared), 4)]


async def check_promise(host: EngineHost) -> PromiseOutcome:
    """Every window with every drafter, alone or four sessions at once."""
    alone, groups = promise_cases()
    cases = [*alone, *itertools.chain(*groups)]
    truths: dict[tuple[tuple[int, ...], float], tuple[int, ...]] = {}
    for case in cases:
        if case.key not in truths:
            truths[case.key] = (await tell(host, Case(case.tokens, case.sampling))).tokens
    told = [await tell(host, case, truths[case.key]) for case in alone]
    for group in groups:
        told += await asyncio.gather(*(tell(host, case, truths[case.key]) for case in group))
    differences = sum(one.tokens != truths[case.key] for case, one in zip(cases, told, strict=True))
    return PromiseOutcome(len(told), differences, sum(one.guessed for one in told))


async def turns_differ(host: EngineHost) -> bool:
    """Whether a second turn on kept KV differs from one session that reads everything from the start."""
    first = sample_tokens(60, 60)
    session = f"two turns {next(_numbers)}"
    reply = await tell(host, Case(first, SAMPLED, 3, "ngram"), session=session)
    longer = first + reply.tokens + sample_tokens(61, 15)
    second = await tell(host, Case(longer, SAMPLED, 7, "ngram"), session=session)
    assert second.known_length >= len(first), "the second turn starts on the first one's KV"
    fresh = await tell(host, Case(longer, SAMPLED))
    assert fresh.known_length == 0
    return second.tokens != fresh.tokens
