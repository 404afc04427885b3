"""What the sessions of the load say: the same in every run, so that every token is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SESSIONS = 4
NO_END = {0: -100.0}
"""The end token is never drawn, so that turns have their full length."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One input, and how to go on from it."""

    prompt: str
    options: dict[str, Any] = field(default_factory=dict)


def talks(turn_tokens: int) -> list[tuple[Turn, ...]]:
    """The turns of each session, `turn_tokens` tokens each: greedy or drawn, plain or with penalties."""
    ways: list[dict[str, Any]] = [
        {"temperature": 0.0, "loop": "adaptive"},
        {"temperature": 1.0, "loop": "run_ahead"},
        {"temperature": 0.8, "top_p": 0.95, "loop": "synchronous"},
        {"temperature": 0.7, "repetition_penalty": 1.2, "frequency_penalty": 0.3, "logprobs": 1},
    ]
    return [
        tuple(
            Turn(
                f"def chaos_{session}_{turn}(path):\n",
                {
                    **ways[(session + turn) % len(ways)],
                    "seed": 100 * session + turn,
                    "max_new_tokens": turn_tokens,
                    "logit_bias": NO_END,
                },
            )
            for turn in range(2)
        )
        for session in range(SESSIONS)
    ]
