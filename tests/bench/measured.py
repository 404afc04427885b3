"""Made-up turns for tests of what is reckoned from measured ones."""

from __future__ import annotations

from typing import Any

from outrider_bench.tasks import Measurement, Outcome, Task


def task(name: str = "text 1", temperature: float = 0.0, tokens: int = 4) -> Task:
    return Task(name, (1, 2, 3), tokens, temperature, seed=1)


def measurement(
    system: str,
    seconds: float = 1.0,
    *,
    of: Task | None = None,
    drawn: tuple[int, ...] = (5, 6, 7, 8),
    **details: Any,
) -> Measurement:
    """A turn that drew these tokens in so many seconds."""
    return Measurement(system, of or task(), Outcome(drawn, seconds, details=details))


def summary(**changes: Any) -> dict[str, Any]:
    """The details of a turn of 101 tokens in 26 rounds: 20 ms to the first token, 10 ms each after it."""
    details = {
        "rounds": 26,
        "tokens": 101,
        "proposed": 100,
        "accepted": 75,
        "ttft_ms": 20.0,
        "duration_ms": 1020.0,
        "verify_ms": 270.0,
        "target_ms": 260.0,
        "draft_ms": 240.0,
        "guessed": 120,
        "draft_wait_ms": 250.0,
        "degraded": False,
        "sources": "t",
    }
    return details | changes
