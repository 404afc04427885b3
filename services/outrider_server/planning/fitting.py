"""What fits on a device: the largest slots and the longest context, by bisection over the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .memory import plan_memory
from .types import EngineShape, Fit, ModelSizes

MOST_SLOTS = 4096
LONGEST_CONTEXT = 1 << 24
"""Where the search ends for a model that names no longest context."""


def fit(
    sizes: ModelSizes,
    shape: EngineShape,
    memory_bytes: int,
    *,
    rows: int = 0,
    other_bytes: int = 0,
) -> Fit:
    """What fits beside `other_bytes`. `rows` 0 lets a step grow with the slots, as the services do."""
    available = memory_bytes - other_bytes

    def holds(slots: int, context_tokens: int) -> bool:
        tried = replace(
            shape,
            slots=slots,
            rows=min(rows, slots) or slots,
            context_tokens=context_tokens,
        )
        return plan_memory(sizes, tried).total_bytes <= available

    return Fit(
        memory_bytes=memory_bytes,
        fits=holds(shape.slots, shape.context_tokens),
        largest_slots=largest(lambda slots: holds(slots, shape.context_tokens), MOST_SLOTS),
        largest_context_tokens=largest(
            lambda tokens: holds(shape.slots, tokens),
            max(sizes.max_positions, sizes.most_positions) or LONGEST_CONTEXT,
        ),
    )


def largest(holds: Callable[[int], bool], most: int) -> int:
    """The largest number of 1 to `most` that holds, where every smaller one does too; 0 where none does."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if holds(middle):
            low = middle
        else:
            high = middle - 1
    return low
