"""How fast both models step on this machine, and what a draft that agrees so often would bring."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.surroundings import Clock
from ..core.types import Draw, SamplingParams
from ..engine.engine import Engine
from ..pacing.window import USUAL_WINDOW, Costs, choose_pace, expected_tokens

GREEDY = Draw(SamplingParams(temperature=0.0), seed=0, generated_from=0)
CONTEXT_TOKENS = 64
REPEATS = 15
VERIFY_TOKENS = (1, 2, 4, 8)
ROUND_TRIP_MS = 0.3
"""Between two services on one machine, over a socket."""


def step_ms(engine: Engine, tokens: Sequence[int], clock: Clock) -> tuple[tuple[int, float], ...]:
    """(tokens, ms) of steps of one session, ascending: medians. `tokens` are any that the model knows."""
    text = (tuple(tokens) * (CONTEXT_TOKENS + max(VERIFY_TOKENS)))[
        : CONTEXT_TOKENS + max(VERIFY_TOKENS)
    ]
    context = min(CONTEXT_TOKENS, engine.limits.max_context_tokens - max(VERIFY_TOKENS))
    opened = engine.open("speed", 1, 0, GREEDY)
    engine.prefill(opened.slot, 0, text[: min(context, engine.limits.prefill_width)])
    start = len(opened.slot.tokens)
    found = []
    for count in VERIFY_TOKENS:
        if count > engine.limits.width:
            break
        times = []
        for _ in range(REPEATS):
            began = clock()
            engine.decide([(opened.slot, start, text[start : start + count])])
            times.append(1000 * (clock() - began))
        found.append((count, sorted(times)[REPEATS // 2]))
    engine.table.close(opened.slot, opened.opening)
    engine.release("speed", 1)
    return tuple(found)


def expected_speed(
    agreement: float, draft_ms: float, verify_ms: Sequence[tuple[int, float]]
) -> str:
    """What a draft brings, in words, by the formulas that a session paces itself with."""
    costs = Costs(draft_ms, ROUND_TRIP_MS, tuple(verify_ms))
    most = min(USUAL_WINDOW, costs.verify_ms[-1][0] - 1)
    pace = choose_pace(agreement, costs, most, margin=0.0)
    if not pace.window:
        return "no speed-up expected here"
    gained = costs.verify(1) / pace.predicted_ms
    tokens = expected_tokens(agreement, pace.window)
    return f"{gained:.2f}x expected here, {tokens:.2f} tokens a round, window {pace.window}"
