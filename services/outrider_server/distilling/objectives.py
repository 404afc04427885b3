"""What a draft learns: how far its distribution is from the target's, of which the best tokens are known.

Each objective is a plain function of both at every position. Tokens that are not among the target's best, or
that the draft does not know, are taken together, so agreement and overlap are never more than they are said
to be: two models may still agree on one of those.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .agreement import agreement_of


@dataclass(frozen=True, slots=True)
class Pair:
    """Both distributions at [N] positions, over the tokens that both know of the target's best [T]."""

    target: torch.Tensor
    """[N, T] chances; 0 for what the draft does not know."""
    target_rest: torch.Tensor
    """[N]: of all other tokens together."""
    draft: torch.Tensor
    """[N, T] logarithms of the draft's chances; -inf for what it does not know."""
    draft_rest: torch.Tensor
    """[N]: chance of all other tokens together, at least 0."""


Objective = Callable[[Pair], torch.Tensor]
"""The loss at each position, [N], in nats or as a chance."""


def pair_of(
    logits: torch.Tensor,
    own_ids: torch.Tensor,
    target_logprobs: torch.Tensor,
    temperatures: torch.Tensor,
) -> Pair:
    """Brings both together, at the temperatures [N] at which the target's logprobs [N, T] are.

    `logits` [N, K] are the draft's, of the tokens that it knows, and `own_ids` [N, T] the target's best in
    the draft's ids; -1 stands for one that it does not know.
    """
    known = own_ids >= 0
    scaled = logits / temperatures.unsqueeze(-1)
    best = scaled.gather(-1, own_ids.clamp_min(0)) - scaled.logsumexp(-1, keepdim=True)
    draft = best.where(known, -torch.inf)
    target = target_logprobs.exp().where(known, 0.0)
    return Pair(
        target=target,
        target_rest=(1 - target.sum(-1)).clamp_min(0.0),
        draft=draft,
        draft_rest=(1 - draft.exp().sum(-1)).clamp_min(0.0),
    )


def agreement(pair: Pair) -> torch.Tensor:
    """Chance that both draw the same token under one noise: [N]. What is taken together never agrees."""
    nothing = torch.zeros_like(pair.target_rest)
    target = torch.cat([pair.target, torch.stack([pair.target_rest, nothing], -1)], -1)
    draft = torch.cat([pair.draft.exp(), torch.stack([nothing, pair.draft_rest], -1)], -1)
    return agreement_of(target, draft)


def disagreement_loss(pair: Pair) -> torch.Tensor:
    """The negative logarithm of the chance of agreement."""
    return -agreement(pair).clamp_min(SMALLEST).log()


def divergence_loss(pair: Pair) -> torch.Tensor:
    """Kullback-Leibler divergence of the target's distribution from the draft's."""
    logs = pair.target.clamp_min(SMALLEST).log()
    draft = pair.draft.where(pair.target > 0, 0.0)
    best = (pair.target * (logs - draft)).sum(-1)
    rest = pair.target_rest.clamp_min(SMALLEST).log() - pair.draft_rest.clamp_min(SMALLEST).log()
    return best + pair.target_rest * rest


def variation_loss(pair: Pair) -> torch.Tensor:
    """Total variation distance, at most: what independent draws under rejection sampling would refuse."""
    return 1 - torch.minimum(pair.target, pair.draft.exp()).sum(-1)


SMALLEST = 1e-9
OBJECTIVES: dict[str, Objective] = {
    "agreement": disagreement_loss,
    "kl": divergence_loss,
    "total-variation": variation_loss,
}
"""By their names in settings."""
