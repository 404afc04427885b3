"""Objectives against plain formulas, and their gradients against finite differences."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from outrider_server.distilling.agreement import agreement_chances, agreement_of
from outrider_server.distilling.objectives import (
    OBJECTIVES,
    Pair,
    agreement,
    divergence_loss,
    pair_of,
    variation_loss,
)
from outrider_server.distilling.settings import OBJECTIVES as NAMES

POSITIONS, VOCABULARY, KNOWN = 6, 12, 9


def distributions(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 logits of a target [positions, vocabulary] and of a draft that knows the first tokens."""
    generator = torch.Generator().manual_seed(seed)
    target = 2 * torch.randn(POSITIONS, VOCABULARY, generator=generator, dtype=torch.float64)
    draft = 2 * torch.randn(POSITIONS, KNOWN, generator=generator, dtype=torch.float64)
    return target, draft


def pair(target: torch.Tensor, draft: torch.Tensor, top: int, temperature: float = 1.0) -> Pair:
    """Both, with so many of the target's best tokens kept."""
    logprobs, ids = (target / temperature).log_softmax(-1).topk(top)
    own = ids.where(ids < KNOWN, -1)
    return pair_of(draft, own, logprobs, torch.full((len(target),), temperature).to(draft))


def plain_agreement(target: list[float], draft: list[float]) -> float:
    """The formula, term by term."""
    total = 0.0
    for t, d in zip(target, draft, strict=True):
        if t and d:
            pairs = zip(target, draft, strict=True)
            total += 1 / sum(max(each / t, other / d) for each, other in pairs)
    return total


def whole(draft: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """The draft's chances over the target's tokens: none for those that it does not know."""
    chances = (draft / temperature).softmax(-1)
    nothing = torch.zeros(POSITIONS, VOCABULARY - KNOWN, dtype=chances.dtype)
    return torch.cat([chances, nothing], -1)


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_with_all_tokens_kept_agreement_is_the_plain_formula(temperature: float) -> None:
    target, draft = distributions()
    found = agreement(pair(target, draft, VOCABULARY, temperature))
    chances = (target / temperature).softmax(-1)
    pairs = zip(chances.tolist(), whole(draft, temperature).tolist(), strict=True)
    # What the draft does not know stands in one place, as no guess can agree on it anyway.
    plain = torch.tensor([plain_agreement(*each) for each in pairs], dtype=torch.float64)
    torch.testing.assert_close(found, plain)


def test_agreement_is_the_share_of_draws_under_one_noise() -> None:
    target, draft = distributions(1)
    generator = torch.Generator().manual_seed(2)
    uniform = torch.rand(40000, 1, VOCABULARY, generator=generator, dtype=torch.float64)
    noise = -(-uniform.log()).log()
    drawn = (target.log_softmax(-1) + noise).argmax(-1)
    guessed = (whole(draft).log() + noise).argmax(-1)
    share = (drawn == guessed).double().mean(0)
    torch.testing.assert_close(
        agreement_of(target.softmax(-1), whole(draft)), share, atol=0.01, rtol=0
    )


def test_fewer_kept_tokens_never_promise_more() -> None:
    target, draft = distributions(3)
    kept = [agreement(pair(target, draft, top)) for top in range(1, VOCABULARY + 1)]
    for fewer, more in pairwise(kept):
        assert bool((fewer <= more + 1e-12).all())


def test_two_equal_distributions_always_agree() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    assert agreement_chances(logits, logits).tolist() == pytest.approx([1.0] * 3)


def test_divergence_and_variation_are_the_plain_formulas() -> None:
    target, draft = distributions(4)
    target = target[:, :KNOWN]
    both = pair(target, draft, KNOWN)
    chances, guessed = target.softmax(-1), draft.softmax(-1)
    divergence = (chances * (chances / guessed).log()).sum(-1)
    torch.testing.assert_close(divergence_loss(both), divergence, atol=1e-7, rtol=1e-6)
    variation = (chances - guessed).abs().sum(-1) / 2
    torch.testing.assert_close(variation_loss(both), variation)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("top", [4, VOCABULARY])
def test_gradients_are_those_of_finite_differences(name: str, top: int) -> None:
    target, draft = distributions(5)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return OBJECTIVES[name](pair(target, logits, top))

    assert torch.autograd.gradcheck(loss, draft.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_finite_where_nothing_agrees(name: str) -> None:
    target = torch.full((1, VOCABULARY), -60.0)
    target[0, VOCABULARY - 1] = 60.0  # which the draft does not know
    draft = torch.zeros(1, KNOWN, requires_grad=True)
    OBJECTIVES[name](pair(target.double(), draft.double(), 4)).sum().backward()
    assert draft.grad is not None
    assert bool(draft.grad.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_gradients_are_finite_however_unlikely_tokens_are(name: str, temperature: float) -> None:
    """In float32, as training computes; logits of real models are this far apart."""
    target, draft = (20 * each.float() for each in distributions(7))
    draft.requires_grad_()
    OBJECTIVES[name](pair(target, draft, 8, temperature)).sum().backward()
    assert draft.grad is not None
    assert bool(draft.grad.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_learning_from_the_objective_agrees_more(name: str) -> None:
    target, draft = distributions(6)
    logits = draft.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(100):
        optimizer.zero_grad()
        OBJECTIVES[name](pair(target, logits, 8)).mean().backward()
        optimizer.step()
    before = agreement(pair(target, draft, 8)).mean()
    assert agreement(pair(target, logits.detach(), 8)).mean() > before + 0.2


def test_the_settings_name_every_objective() -> None:
    assert tuple(OBJECTIVES) == NAMES
