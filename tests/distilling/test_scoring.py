"""The target's best tokens at a position, and what is left for all others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from outrider_server.distilling.scores import NO_TOKEN, TOP
from outrider_server.distilling.scoring import best_tokens


@pytest.mark.parametrize("vocabulary", [5, 64, 4096, 4097, 9000])
def test_the_best_tokens_are_those_of_a_sort_and_all_chances_add_up(vocabulary: int) -> None:
    """The best stand side by side in one row, and far apart in the others."""
    logits = torch.randn(6, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 4
    logits[0] = torch.arange(vocabulary) / 100
    found = best_tokens(logits, 0.7)
    kept = min(TOP, vocabulary)
    expected = (logits.double() / 0.7).log_softmax(-1)
    values, places = expected.sort(dim=-1, descending=True, stable=True)
    assert found["ids"][:, :kept].tolist() == places[:, :kept].tolist()
    assert (found["ids"][:, kept:] == NO_TOKEN).all()
    np.testing.assert_allclose(found["logprobs"][:, :kept], values[:, :kept], atol=0.02)
    whole = np.exp(found["logprobs"].astype(np.float64)).sum(-1) + np.exp(found["rest"])
    np.testing.assert_allclose(whole, 1, atol=0.01)


def test_equal_logits_are_each_kept_once() -> None:
    (found,) = best_tokens(torch.zeros(1, 9000), 1.0)
    assert len(set(found["ids"].tolist())) == TOP
    np.testing.assert_allclose(np.exp(found["logprobs"].astype(np.float64)), 1 / 9000, rtol=0.01)
