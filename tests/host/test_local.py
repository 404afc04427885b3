"""The decode loops over two real models in this process: the text is the target's, with any draft."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from fakes import LengthEnd, ListRecorder
from models_for_tests import tiny_engine, tiny_limits, tiny_llama
from outrider_server.core.types import Draw, Round, SamplingParams
from outrider_server.host.engine_host import EngineHost
from outrider_server.host.local import LocalDrafter, LocalVerifier
from outrider_server.speculation.decoder import decode_ahead, decode_synchronously
from outrider_server.speculation.drafters import NoDrafter
from outrider_server.speculation.ports import Drafter
from outrider_server.speculation.turn import Turn

PROMPT = list(range(2, 30))
COUNT = 24
LOOPS = (decode_synchronously, decode_ahead)
SAMPLINGS = {
    "greedy": SamplingParams(temperature=0.0),
    "sampled": SamplingParams(temperature=1.0),
    "everything": SamplingParams(
        temperature=0.9,
        top_k=30,
        top_p=0.95,
        min_p=0.01,
        repetition_penalty=1.2,
        frequency_penalty=0.3,
        presence_penalty=0.2,
        logit_bias={7: 1.5},
    ),
}


@pytest.fixture
async def hosts() -> AsyncIterator[tuple[EngineHost, EngineHost, EngineHost]]:
    """A target, a draft that equals it, and a draft that does not."""
    draft_limits = tiny_limits(width=2)
    made = (
        await EngineHost.started(tiny_engine),
        await EngineHost.started(lambda: tiny_engine(limits=draft_limits)),
        await EngineHost.started(lambda: tiny_engine(tiny_llama(seed=5), draft_limits)),
    )
    yield made
    for host in made:
        await host.stop()


async def run(
    loop: Callable[..., AsyncIterator[Round]],
    target: EngineHost,
    draft: EngineHost | None,
    draw: Draw,
    window: int,
    session: str,
    prompt: list[int] | None = None,
) -> tuple[list[int], list[Round]]:
    prompt = prompt or PROMPT
    verifier = await LocalVerifier.open(target, session, 1, prompt, draw)
    drafter: Drafter = NoDrafter()
    if draft is not None:
        drafter = await LocalDrafter.open(draft, session, 1, prompt, draw, lead=8)
    turn = Turn(prompt, verifier.known_length, window, LengthEnd(COUNT), COUNT)
    rounds = [decided async for decided in loop(turn, verifier, drafter, ListRecorder())]
    await verifier.close()
    if isinstance(drafter, LocalDrafter):
        await drafter.close()
    return [token for decided in rounds for token in decided.tokens], rounds


@pytest.mark.parametrize("sampling", SAMPLINGS)
async def test_tokens_are_the_targets_with_any_draft_window_and_loop(
    hosts: tuple[EngineHost, EngineHost, EngineHost], sampling: str
) -> None:
    target, same, other = hosts
    draw = Draw(SAMPLINGS[sampling], seed=99, generated_from=len(PROMPT))
    wanted, _ = await run(decode_synchronously, target, None, draw, 0, "alone")
    for loop in LOOPS:
        for draft in (None, same, other):
            for window in (1, 4, 7):
                name = f"{loop.__name__} {window}"
                assert (await run(loop, target, draft, draw, window, name))[0] == wanted


async def test_a_draft_that_equals_the_target_is_always_right(
    hosts: tuple[EngineHost, EngineHost, EngineHost],
) -> None:
    draw = Draw(SamplingParams(), seed=4, generated_from=len(PROMPT))
    _, rounds = await run(decode_synchronously, hosts[0], hosts[1], draw, 7, "a")
    assert all(decided.agreed == decided.proposed for decided in rounds)
    assert len(rounds) <= 4


async def test_a_second_turn_sends_only_what_the_slots_lack(
    hosts: tuple[EngineHost, EngineHost, EngineHost],
) -> None:
    target, draft, _ = hosts
    draw = Draw(SamplingParams(), seed=4, generated_from=len(PROMPT))
    tokens, _ = await run(decode_ahead, target, draft, draw, 4, "a")
    prompt = PROMPT + tokens + [3, 3]
    before = [host.engine.counters.prefilled_tokens for host in (target, draft)]
    second = Draw(SamplingParams(), seed=8, generated_from=len(prompt))
    got, _ = await run(decode_ahead, target, draft, second, 4, "a", prompt)
    after = [host.engine.counters.prefilled_tokens for host in (target, draft)]
    assert all(late - early <= 16 for early, late in zip(before, after, strict=True))
    assert got == (await run(decode_synchronously, target, None, second, 0, "b", prompt))[0]


async def test_sessions_that_decode_together_do_not_touch_each_other(
    hosts: tuple[EngineHost, EngineHost, EngineHost],
) -> None:
    target, same, other = hosts
    draws = [Draw(SamplingParams(), seed, len(PROMPT)) for seed in range(4)]
    alone = [(await run(decode_synchronously, target, None, draw, 0, "z"))[0] for draw in draws]
    await target.release("z", 1)
    together = await asyncio.gather(
        *(
            run(decode_ahead, target, (None, same, other, same)[index], draw, 4, f"s{index}")
            for index, draw in enumerate(draws)
        )
    )
    assert [tokens for tokens, _ in together] == alone
