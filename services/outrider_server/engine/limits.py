"""The static shapes of an engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepLimits:
    """How much an engine holds, and how long its steps are."""

    slots: int
    max_context_tokens: int
    width: int
    prefill_width: int
    row_buckets: tuple[int, ...]
    """Ascending: a step has at most one of these times `width` tokens."""
