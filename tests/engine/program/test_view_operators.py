"""Every rule for an operator that computes nothing, against torch, over rows of odd widths."""

from __future__ import annotations

import pytest
import torch
from models_for_tests import needs_kernels
from outrider_server.engine.program import view_operators
from outrider_server.engine.program.views import NotRecorded

from .recordings import IDS, Function, computed, recorded, rules_of, table_of

pytestmark = needs_kernels
aten = torch.ops.aten
WIDTHS = [1, 7, 24]
CONSTANT = torch.arange(24.0)


def turned(x: torch.Tensor) -> torch.Tensor:
    """Rows whose numbers do not lie in order: [1, T, W, 3]."""
    return x.transpose(2, 3)


CASES: dict[str, list[Function]] = {
    "aten.alias.default": [aten.alias.default],
    "aten.detach.default": [aten.detach.default],
    "aten.clone.default": [
        lambda x: aten.clone.default(x),
        lambda x: aten.clone.default(turned(x), memory_format=torch.contiguous_format),
    ],
    "aten._to_copy.default": [
        lambda x: aten._to_copy.default(x, dtype=torch.float16),
        lambda x: aten._to_copy.default(x * 1.5, dtype=torch.int64) * 1.0,
        lambda x: aten._to_copy.default(x, dtype=torch.bool) * 3.0,
    ],
    "aten.view.default": [
        lambda x: aten.view.default(x, [x.shape[1], 3 * x.shape[3], 1]),
        lambda x: aten.view.default(turned(x).contiguous(), [1, -1, 3, x.shape[3]]),
        lambda x: aten.view.default(x.transpose(1, 2), [3, x.shape[1], -1]),
    ],
    "aten._unsafe_view.default": [
        lambda x: aten._unsafe_view.default(
            turned(x).clone(memory_format=torch.contiguous_format), [-1, 3 * x.shape[3]]
        ),
    ],
    "aten.transpose.int": [lambda x: aten.transpose.int(x, -1, 1)],
    "aten.t.default": [lambda x: aten.t.default(x[0, :, 0])],
    "aten.permute.default": [lambda x: aten.permute.default(x, [3, -2, 1, 0])],
    "aten.expand.default": [
        lambda x: aten.expand.default(x[:, :, :1], [2, -1, 5, -1]),
        lambda x: aten.expand.default(x, [2, 1, x.shape[1], 3, x.shape[3]]),
    ],
    "aten.unsqueeze.default": [
        lambda x: aten.unsqueeze.default(x, 1),
        lambda x: aten.unsqueeze.default(turned(x), -1),
    ],
    "aten.squeeze.dim": [
        lambda x: aten.squeeze.dim(x, 0),
        lambda x: aten.squeeze.dim(x, 2),
        lambda x: aten.squeeze.dim(turned(x)[:, :, :, 1:2], -1),
    ],
    "aten.squeeze.dims": [lambda x: aten.squeeze.dims(turned(x)[..., :1], [0, 3])],
    "aten.squeeze.default": [lambda x: aten.squeeze.default(x[:, :, 1:2])],
    "aten.slice.Tensor": [
        lambda x: aten.slice.Tensor(x, 2, 1),
        lambda x: aten.slice.Tensor(x, 2, -2, -1),
        lambda x: aten.slice.Tensor(x, 2, 0, 3, 2),
        lambda x: aten.slice.Tensor(turned(x), -1, 1, 99, 2),
        lambda x: aten.slice.Tensor(x, 1, 0, 2**62),
    ],
    "aten.select.int": [lambda x: aten.select.int(x, 2, -1), lambda x: aten.select.int(x, 0, 0)],
    "aten.unbind.int": [lambda x: torch.add(*aten.unbind.int(x, 2)[1:])],
    "aten.split_with_sizes.default": [
        lambda x: aten.split_with_sizes.default(x, [1, 2], 2)[1],
        lambda x: aten.split_with_sizes.default(turned(x), [2, 1], -1)[1],
    ],
    "aten.split.Tensor": [lambda x: aten.split.Tensor(x, 2, 2)[1]],
    "aten.cat.default": [
        lambda x: aten.cat.default([x[..., 1:], x[..., :1], x], 3),
        lambda x: aten.cat.default([turned(x), -turned(x)], -1),
        lambda x: aten.cat.default([x, CONSTANT[: x.shape[3]].expand(1, x.shape[1], 1, -1)], 2),
    ],
    "aten.stack.default": [
        lambda x: aten.stack.default([x, turned(x).transpose(2, 3) * 2], 2),
        lambda x: aten.stack.default([x, x + 1], -1),
    ],
    "aten.repeat.default": [
        lambda x: aten.repeat.default(x, [1, 1, 2, 3]),
        lambda x: aten.repeat.default(turned(x), [2, 1, 1, 1, 2]),
    ],
}


def test_every_rule_has_its_case() -> None:
    assert set(CASES) == rules_of(view_operators)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", CASES)
def test_numbers_are_looked_at_as_torch_looks_at_them(name: str, width: int) -> None:
    """Alone and where they are computed with next."""
    table = table_of(width)
    for function in CASES[name]:
        for after in (lambda x: x, lambda x: x * 2 + 1):
            wanted = computed(lambda x, f=function, g=after: g(f(x)), table, IDS).float()
            made = recorded(lambda x, f=function, g=after: g(f(x)), table)
            assert name in made.names
            assert torch.equal(made.replayed(IDS), wanted)


REFUSED: dict[str, list[Function]] = {
    "it takes some of a step's tokens": [
        lambda x: x[:, 1:],
        lambda x: x[:, 0],
        lambda x: x[:, ::2],
    ],
    "it mixes": [
        lambda x: x.transpose(1, 2).reshape(-1, x.shape[3]),
        lambda x: x.reshape(-1),
    ],
    "it mixes a step's tokens with other dimensions": [
        lambda x: torch.cat((x, x), dim=1),
        lambda x: x[0, :, 0, :1] - x[0, :, 0, :1].t(),
    ],
    "it spreads tokens over each other": [
        lambda x: x[0, :, 0, :1].t().expand(x.shape[1], -1),
    ],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_mixes_tokens_is_refused(reason: str) -> None:
    for function in REFUSED[reason]:
        made = recorded(function, table_of(4))
        with pytest.raises(NotRecorded, match=reason):
            made.replayed(IDS)
