"""Made-up replies and times for tests of what is foretold of a pair."""

from __future__ import annotations

from collections.abc import Sequence

from outrider_bench.pair.costs import ModelTimes, PairTimes
from outrider_bench.pair.replied import Prompt, Reply

PROMPT = (7, 7)


def reply(
    agreed: str,
    *,
    name: str = "text 0",
    category: str = "texts",
    temperature: float = 0.0,
    chances: Sequence[float] | None = None,
) -> Reply:
    """A reply without repeats, whose guesses agreed (1) or not (0), position by position."""
    tokens = tuple(range(100, 100 + len(agreed)))
    guesses = tuple(
        token if right == "1" else 1 for token, right in zip(tokens, agreed, strict=True)
    )
    found = tuple(chances or (float(right) for right in agreed))
    return Reply(Prompt(name, category, PROMPT, 1), temperature, tokens, guesses, found)


def pair_times(
    verify_ms: float = 10.0,
    draft_ms: float = 1.0,
    outside_ms: float = 0.5,
    way_ms: float = 0.5,
    slower: float = 1.0,
) -> PairTimes:
    """Steps of any width take the same, `slower` times as long beside the other model's."""
    target = ModelTimes((verify_ms,) * 8, 0.0)
    draft = ModelTimes((draft_ms,), 0.0)
    target_beside = ModelTimes((verify_ms * slower,) * 8, 0.0)
    draft_beside = ModelTimes((draft_ms * slower,), 0.0)
    return PairTimes(target, target_beside, draft, draft_beside, outside_ms, way_ms)
