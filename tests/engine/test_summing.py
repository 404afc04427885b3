"""Sums over ranks: one order for every element, in float32, rounded once."""

from __future__ import annotations

import pytest
import torch
from outrider_server.engine.model import summing
from outrider_server.engine.model.summing import sum_in_rank_order


def summed(monkeypatch: pytest.MonkeyPatch, parts: list[torch.Tensor]) -> torch.Tensor:
    """The sum as each of the ranks that hold these parts gets it."""

    def all_gather(out: list[torch.Tensor], own: torch.Tensor, group: object) -> None:
        assert own.is_contiguous()
        for place, part in zip(out, parts, strict=True):
            place.copy_(part)

    monkeypatch.setattr(summing.distributed, "all_gather", all_gather)
    monkeypatch.setattr(summing.distributed, "get_world_size", lambda group: len(parts))
    outcomes = [sum_in_rank_order(part, None) for part in parts]
    assert all(torch.equal(outcome, outcomes[0]) for outcome in outcomes)
    return outcomes[0]


def test_every_element_is_added_in_the_order_of_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """In any other order the small part is lost, or not."""
    parts = [torch.full((2, 64, 8), value).transpose(0, 1) for value in (1e8, -1e8, 1.0)]
    assert torch.equal(summed(monkeypatch, parts), torch.ones(64, 2, 8))
    assert torch.equal(summed(monkeypatch, parts[1:] + parts[:1]), torch.zeros(64, 2, 8))


def test_a_sum_of_bfloat16_is_rounded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounded after each addition, 256 would stay what it is."""
    parts = [torch.full((3,), value, dtype=torch.bfloat16) for value in (256.0, 1.0, 1.0)]
    total = summed(monkeypatch, parts)
    assert total.dtype == torch.bfloat16
    assert total.tolist() == [258.0, 258.0, 258.0]


def test_what_ranks_hold_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [torch.ones(4), torch.full((4,), 2.0)]
    summed(monkeypatch, parts)
    assert [part.tolist() for part in parts] == [[1.0] * 4, [2.0] * 4]
