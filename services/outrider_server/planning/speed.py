"""The speed that memory bandwidth allows, and the round trip at which a remote draft stops to pay.

A step of few tokens is the reading of weights and cache (the roofline of Williams, Waterman, Patterson,
CACM 52(4), 2009, left of its ridge): time = bytes / bandwidth. Nothing runs faster.
What speculation is worth is told by `pacing/window.py`, with these times as costs.
"""

from __future__ import annotations

from ..pacing.window import Costs, best_speculation, plain_ms
from .memory import token_bytes
from .types import EngineShape, ModelSizes, Roofline
from .weights import read_bytes

LONGEST_ROUND_TRIP_MS = 1e7
STEPS = 60
"""Halvings of the bisection: more than float64 can tell apart."""


def roofline(sizes: ModelSizes, shape: EngineShape, bandwidth: float) -> Roofline:
    """The fastest possible steps at `bandwidth` bytes a second, every session at its full context."""
    weights = read_bytes(sizes, shape.dtype, shape.quantization)
    cache = token_bytes(sizes, shape.dtype) * shape.context_tokens
    step_seconds = (weights + cache) / bandwidth
    full_seconds = (weights + shape.slots * cache) / bandwidth
    return Roofline(
        weight_read_bytes=weights,
        cache_read_bytes=cache,
        step_ms=step_seconds * 1000,
        tokens_per_second=1 / step_seconds,
        all_slots_tokens_per_second=shape.slots / full_seconds,
    )


def break_even_ms(agreement: float, draft_ms: float, verify_ms: float, width: int) -> float | None:
    """The longest round trip to the draft at which speculation is not slower than the target alone.

    A round verifies up to `width` - 1 guesses in one step of `verify_ms`; the best window and the better of
    taking turns and running ahead are chosen for each round trip. None where a draft never pays.
    """

    def pays(round_trip_ms: float) -> bool:
        costs = Costs(draft_ms, round_trip_ms, ((width, verify_ms),))
        best = best_speculation(agreement, costs, width - 1, costs)
        return best is not None and best.predicted_ms <= plain_ms(costs)

    if not pays(0.0):
        return None
    low, high = 0.0, LONGEST_ROUND_TRIP_MS
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if pays(middle) else (low, middle)
    return low
