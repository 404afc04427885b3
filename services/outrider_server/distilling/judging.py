"""How good a draft is on replies that it never learnt from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .batches import Batch
from .learner import Learner


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Figures of a draft on held-out replies."""

    positions: int
    same: float
    """Share of positions at which both models' most probable tokens are the same."""
    agreement: float
    """Chance that a guess agrees, over all replies: of greedy ones the share of same tokens, of others the
    mean chance under one noise, at least."""
    by_temperature: tuple[tuple[float, float], ...]
    """(temperature, the same of its replies alone), ascending; 0 is greedy."""


def judge(learner: Learner, batches: Iterable[Batch]) -> HeldOut:
    """Judges the student on batches."""
    temperatures, agreed, same = [], [], []
    for batch in batches:
        judged = learner.judge(batch)
        equal = judged.same.float()
        same.append(equal)
        agreed.append(torch.where(batch.is_greedy, equal, judged.chances))
        temperatures.append(batch.temperatures.where(~batch.is_greedy, 0.0))
    equal, chances, drawn_at = (torch.cat(each).double() for each in (same, agreed, temperatures))
    return HeldOut(
        positions=len(equal),
        same=equal.mean().item(),
        agreement=chances.mean().item(),
        by_temperature=tuple(
            (round(each, 6), chances[drawn_at == each].mean().item())
            for each in sorted(set(drawn_at.tolist()))
        ),
    )
