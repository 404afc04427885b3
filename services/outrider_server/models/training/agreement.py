"""The chance that two models that share their Gumbel noise draw the same token."""

import torch

WINDOW_TOKENS = 7


def agreement_chances(target_logits: torch.Tensor, draft_logits: torch.Tensor) -> torch.Tensor:
    """Chance of agreement at each position, `[positions] float32`, exactly.

    Both inputs are `[positions, vocabulary] float32`, already divided by the temperature.
    With t and d the two distributions and one noise for both, token i wins both draws
    with probability 1 / sum_j max(t_j / t_i, d_j / d_i). Sorted by t / d, the terms on
    one side of i take their first argument and those on the other side the second, so
    two running sums give every denominator.
    """
    target_probs = target_logits.double().softmax(dim=-1)
    draft_probs = draft_logits.double().softmax(dim=-1)
    ratios = target_logits.double().log_softmax(-1) - draft_logits.double().log_softmax(-1)
    order = ratios.argsort(dim=-1)
    target_sorted = target_probs.gather(-1, order)
    draft_sorted = draft_probs.gather(-1, order)
    # t_j / t_i >= d_j / d_i exactly where the ratio at j is at least the ratio at i.
    target_above = target_sorted.flip(-1).cumsum(-1).flip(-1)
    draft_below = draft_sorted.cumsum(-1) - draft_sorted
    smallest = torch.finfo(torch.float64).tiny
    shares = target_above / target_sorted.clamp_min(smallest)
    shares = shares + draft_below / draft_sorted.clamp_min(smallest)
    return shares.reciprocal().sum(-1).float()


def greedy_agreement(target_logits: torch.Tensor, draft_logits: torch.Tensor) -> torch.Tensor:
    """1 where both models prefer the same token, else 0: `[positions] float32`."""
    return (target_logits.argmax(-1) == draft_logits.argmax(-1)).float()


def tokens_per_round(agreement: float, window: int = WINDOW_TOKENS) -> float:
    """Mean tokens a verify step decides, if each proposed token agrees with this chance."""
    if agreement >= 1.0:
        return float(window + 1)
    return (1.0 - agreement ** (window + 1)) / (1.0 - agreement)
