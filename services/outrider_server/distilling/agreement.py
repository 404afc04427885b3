"""The chance that two models that share their Gumbel noise draw the same token."""

from __future__ import annotations

import torch

WINDOW_TOKENS = 7


def agreement_chances(target_logits: torch.Tensor, draft_logits: torch.Tensor) -> torch.Tensor:
    """Chance of agreement at each position, `[positions] float32`, exactly.

    Both inputs are `[positions, vocabulary] float32`, already divided by the temperature.
    """
    target_probs = target_logits.double().softmax(dim=-1)
    draft_probs = draft_logits.double().softmax(dim=-1)
    return agreement_of(target_probs, draft_probs).float()


def agreement_of(target_probs: torch.Tensor, draft_probs: torch.Tensor) -> torch.Tensor:
    """Chance of agreement of two distributions, each `[positions, n]`, in their dtype: `[positions]`.

    With t and d the two distributions and one noise for both, token i wins both draws with probability
    1 / sum_j max(t_j / t_i, d_j / d_i) (Daliri, Musco, Suresh, arXiv 2408.07978). Sorted by t / d, the
    terms on one side of i take their first argument and those on the other side the second, so two running
    sums give every denominator. What one of the two next to never draws, less often than its dtype tells
    sums apart, counts as refused. It has a gradient.
    """
    smallest = torch.finfo(draft_probs.dtype).eps
    both = (target_probs > smallest) & (draft_probs > smallest)
    with torch.no_grad():
        ratios = target_probs.log() - draft_probs.log()
        # What neither draws stands anywhere: it adds nothing to either sum.
        order = ratios.nan_to_num(nan=0.0).argsort(dim=-1)
    target_sorted = target_probs.gather(-1, order)
    draft_sorted = draft_probs.gather(-1, order)
    counted = both.gather(-1, order)
    # t_j / t_i >= d_j / d_i exactly where the ratio at j is at least the ratio at i.
    target_above = target_sorted.flip(-1).cumsum(-1).flip(-1)
    draft_below = draft_sorted.cumsum(-1) - draft_sorted
    shares = target_above / target_sorted.where(counted, 1.0)
    shares = shares + draft_below / draft_sorted.where(counted, 1.0)
    return shares.where(counted, torch.inf).reciprocal().sum(-1)


def greedy_agreement(target_logits: torch.Tensor, draft_logits: torch.Tensor) -> torch.Tensor:
    """1 where both models prefer the same token, else 0: `[positions] float32`."""
    return (target_logits.argmax(-1) == draft_logits.argmax(-1)).float()


def tokens_per_round(agreement: float, window: int = WINDOW_TOKENS) -> float:
    """Mean tokens a verify step decides, if each proposed token agrees with this chance."""
    if agreement >= 1.0:
        return float(window + 1)
    return (1.0 - agreement ** (window + 1)) / (1.0 - agreement)
