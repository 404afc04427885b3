"""Every rule for an operator that computes, against torch in float64, over rows of odd widths."""

from __future__ import annotations

import math

import pytest
import torch
from models_for_tests import needs_kernels
from outrider_server.engine.program import layer_operators, operators
from outrider_server.engine.program.views import NotRecorded

from .recordings import IDS, Function, computed, recorded, rules_of, table_of

pytestmark = needs_kernels
aten = torch.ops.aten
WIDTHS = [1, 7, 17, 24]
OF_MODELS = {"outrider.recorded_attention.default", "outrider.recorded_product.default"}
"""Recorded of models alone: `test_program.py`, and quantized ones in `test_quantized_loading.py`."""


NUMBERS = torch.randn(20_000, generator=torch.Generator().manual_seed(1))


def own(x: torch.Tensor, *shape: int, begin: int = 0) -> torch.Tensor:
    """Constant numbers of a shape, in the dtype of some rows."""
    return NUMBERS[begin : begin + math.prod(shape)].view(shape).to(x.dtype)


def like(x: torch.Tensor, begin: int = 0) -> torch.Tensor:
    """A constant [W] for rows [1, T, 3, W]."""
    return own(x, x.shape[-1], begin=begin)


def other(x: torch.Tensor) -> torch.Tensor:
    """Rows of the same sizes with other numbers, some of them equal to x's."""
    return (x * 0.5).floor()


def flat(x: torch.Tensor) -> torch.Tensor:
    """[T, 3 W], as layers take it."""
    return x.reshape(x.shape[1], -1)


def above(x: torch.Tensor) -> torch.Tensor:
    """Numbers that have a root, a logarithm and an inverse."""
    return x.abs() + 0.5


CASES: dict[str, list[Function]] = {
    "aten.neg.default": [aten.neg.default],
    "aten.abs.default": [aten.abs.default],
    "aten.sqrt.default": [lambda x: aten.sqrt.default(above(x))],
    "aten.rsqrt.default": [lambda x: aten.rsqrt.default(above(x))],
    "aten.reciprocal.default": [lambda x: aten.reciprocal.default(above(x))],
    "aten.exp.default": [aten.exp.default],
    "aten.log.default": [lambda x: aten.log.default(above(x))],
    "aten.sin.default": [lambda x: aten.sin.default(x * 300)],
    "aten.cos.default": [lambda x: aten.cos.default(x * 300)],
    "aten.tanh.default": [aten.tanh.default],
    "aten.sigmoid.default": [aten.sigmoid.default],
    "aten.silu.default": [aten.silu.default],
    "aten.erf.default": [aten.erf.default],
    "aten.relu.default": [aten.relu.default],
    "aten.floor.default": [aten.floor.default],
    "aten.logical_not.default": [aten.logical_not.default],
    "aten.bitwise_not.default": [lambda x: aten.bitwise_not.default(x > 0)],
    "aten.mul.Tensor": [
        lambda x: aten.mul.Tensor(x, like(x)),
        lambda x: aten.mul.Tensor(x, x[..., :1]),
        lambda x: aten.mul.Tensor(x[:, :, 1:2] + 1, x),
    ],
    "aten.mul.Scalar": [lambda x: aten.mul.Scalar(x, 0.3)],
    "aten.pow.Scalar": [lambda x: aten.pow.Scalar(2, x)],
    "aten.pow.Tensor_Tensor": [lambda x: aten.pow.Tensor_Tensor(above(x), other(x))],
    "aten.pow.Tensor_Scalar": [
        lambda x: aten.pow.Tensor_Scalar(x, 2),
        lambda x: aten.pow.Tensor_Scalar(x, 3),
        lambda x: aten.pow.Tensor_Scalar(above(x), -0.5),
    ],
    "aten.maximum.default": [lambda x: aten.maximum.default(x, like(x))],
    "aten.minimum.default": [lambda x: aten.minimum.default(x, other(x))],
    "aten.clamp_min.default": [lambda x: aten.clamp_min.default(x, 0.25)],
    "aten.clamp_min.Tensor": [lambda x: aten.clamp_min.Tensor(x, like(x))],
    "aten.clamp_max.default": [lambda x: aten.clamp_max.default(x, 0.25)],
    "aten.clamp_max.Tensor": [lambda x: aten.clamp_max.Tensor(x, like(x))],
    "aten.clamp.default": [
        lambda x: aten.clamp.default(x, -0.5, 1),
        lambda x: aten.clamp.default(x, min=0.5),
        lambda x: aten.clamp.default(x, max=0.5),
    ],
    "aten.clamp.Tensor": [lambda x: aten.clamp.Tensor(x, like(x), like(x) + 1)],
    "aten.hardtanh.default": [
        aten.hardtanh.default,
        lambda x: aten.hardtanh.default(x, 0, 1.5),
    ],
    "aten.eq.Tensor": [lambda x: aten.eq.Tensor(x, other(x))],
    "aten.eq.Scalar": [lambda x: aten.eq.Scalar(x, 0.5)],
    "aten.ne.Tensor": [lambda x: aten.ne.Tensor(x, other(x))],
    "aten.ne.Scalar": [lambda x: aten.ne.Scalar(x, 0.5)],
    "aten.lt.Tensor": [lambda x: aten.lt.Tensor(x, other(x))],
    "aten.lt.Scalar": [lambda x: aten.lt.Scalar(x, 0.5)],
    "aten.le.Tensor": [lambda x: aten.le.Tensor(x, other(x))],
    "aten.le.Scalar": [lambda x: aten.le.Scalar(x, 0.5)],
    "aten.gt.Tensor": [lambda x: aten.gt.Tensor(x, other(x))],
    "aten.gt.Scalar": [lambda x: aten.gt.Scalar(x, 0.5)],
    "aten.ge.Tensor": [lambda x: aten.ge.Tensor(x, other(x))],
    "aten.ge.Scalar": [lambda x: aten.ge.Scalar(x, 0.5)],
    "aten.logical_and.default": [lambda x: aten.logical_and.default(x, other(x))],
    "aten.bitwise_and.Tensor": [lambda x: aten.bitwise_and.Tensor(x > 0, x < 1)],
    "aten.logical_or.default": [lambda x: aten.logical_or.default(x, other(x))],
    "aten.bitwise_or.Tensor": [lambda x: aten.bitwise_or.Tensor(x > 1, x < 0)],
    "aten.where.self": [
        lambda x: aten.where.self(x > 0, x, other(x)),
        lambda x: aten.where.self(like(x) > 0, x, like(x)),
    ],
    "aten.masked_fill.Scalar": [lambda x: aten.masked_fill.Scalar(x, x > 0, 7)],
    "aten.masked_fill.Tensor": [
        lambda x: aten.masked_fill.Tensor(x, x > 0, torch.tensor(7, dtype=x.dtype))
    ],
    "aten.add.Tensor": [
        lambda x: aten.add.Tensor(x, other(x), alpha=3),
        lambda x: aten.add.Tensor(x, like(x), alpha=-2),
        lambda x: aten.add.Tensor(like(x), x),
        lambda x: aten.add.Tensor(x, x.transpose(1, 1)[..., -1:]),
    ],
    "aten.add.Scalar": [lambda x: aten.add.Scalar(x, 0.3, 2)],
    "aten.sub.Tensor": [
        lambda x: aten.sub.Tensor(x, other(x), alpha=3),
        lambda x: aten.sub.Tensor(like(x), x),
        lambda x: aten.sub.Tensor(x * 2, x[:, :, :1]),
    ],
    "aten.sub.Scalar": [lambda x: aten.sub.Scalar(x, 0.3)],
    "aten.rsub.Scalar": [lambda x: aten.rsub.Scalar(x, 0.3)],
    "aten.rsub.Tensor": [lambda x: aten.rsub.Tensor(x, other(x), alpha=3)],
    "aten.div.Tensor": [lambda x: aten.div.Tensor(other(x), above(x))],
    "aten.div.Scalar": [lambda x: aten.div.Scalar(x, 0.3)],
    "aten.gelu.default": [
        aten.gelu.default,
        lambda x: aten.gelu.default(x, approximate="tanh"),
    ],
    "aten.mean.dim": [
        lambda x: aten.mean.dim(x, [-1]),
        lambda x: aten.mean.dim(x, [2], True),
        lambda x: aten.mean.dim(x, [-1, -2]),
    ],
    "aten.sum.dim_IntList": [
        lambda x: aten.sum.dim_IntList(x, [-1], True),
        lambda x: aten.sum.dim_IntList(x, [2]),
        lambda x: aten.sum.dim_IntList(x, [0, 3]),
    ],
    "aten.amax.default": [
        lambda x: aten.amax.default(x, [-1]),
        lambda x: aten.amax.default(x, [2], True),
    ],
    "aten._softmax.default": [
        lambda x: aten._softmax.default(x * 9, -1, False),
        lambda x: aten._softmax.default(x, 2, False),
    ],
    "aten.native_layer_norm.default": [
        lambda x: aten.native_layer_norm.default(x, x.shape[-1:], like(x), like(x, 2), 1e-5)[0],
        lambda x: aten.native_layer_norm.default(x, x.shape[-2:], None, None, 1e-5)[0],
    ],
    "aten.topk.default": [
        lambda x: torch.cat(aten.topk.default(distinct(x), 2), dim=-1),
        lambda x: aten.topk.default(distinct(x), 3, -1, True)[1],
    ],
    "aten.embedding.default": [
        lambda x: aten.embedding.default(own(x, 9, 5), whole(x)),
        lambda x: aten.embedding.default(own(x, 9, 1).bfloat16().to(x.dtype), whole(x)[:, :, :1]),
    ],
    "aten.index.Tensor": [
        lambda x: aten.index.Tensor(own(x, 9, 5), [whole(x)]),
        lambda x: aten.index.Tensor(own(x, 9), [whole(x) - 3]),
        lambda x: aten.index.Tensor(x, [None, None, torch.tensor([2, 0, -1, 2])]),
    ],
    "aten.mm.default": [
        lambda x: aten.mm.default(flat(x), own(x, 3 * x.shape[-1], 50)),
        lambda x: aten.mm.default(flat(x), own(x, 33, 3 * x.shape[-1]).t()),
        lambda x: sides(x, lambda part: aten.mm.default(part, own(x, part.shape[1], 40))),
    ],
    "aten.addmm.default": [
        lambda x: aten.addmm.default(own(x, 50), flat(x), own(x, 3 * x.shape[-1], 50)),
    ],
}


def distinct(x: torch.Tensor) -> torch.Tensor:
    """[T, 3 W], no two of them equal."""
    return flat(x) + torch.linspace(0, 0.4, 3 * x.shape[-1]).to(x.dtype)


def whole(x: torch.Tensor) -> torch.Tensor:
    """Whole numbers from 0 to 8."""
    return (x.abs() * 2).clamp(max=8).to(torch.int64)


def sides(x: torch.Tensor, function: Function) -> torch.Tensor:
    """A function of a row's beginning, and of all of it: both begin at the same place."""
    row = flat(x) * 1
    return torch.cat((function(row[:, : x.shape[-1]]), function(row)), dim=1)


def test_every_rule_has_its_case() -> None:
    assert set(CASES) | OF_MODELS == rules_of(operators) | rules_of(layer_operators)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", CASES)
def test_an_operator_over_rows_is_torchs(name: str, width: int) -> None:
    table = table_of(width)
    for function in CASES[name]:
        made = recorded(function, table)
        assert name in made.names
        wanted = computed(function, table, IDS).float()
        torch.testing.assert_close(made.replayed(IDS), wanted, rtol=2e-5, atol=2e-5)


def root_mean_square(x: torch.Tensor) -> torch.Tensor:
    """Torch takes this apart into operators of which one writes over what another gave."""
    return torch.nn.functional.rms_norm(x, x.shape[-1:], like(x), 1e-5)


@pytest.mark.parametrize("width", WIDTHS)
def test_what_is_written_over_its_own_is_recorded(width: int) -> None:
    table = table_of(width)
    made = recorded(root_mean_square, table)
    assert any(name.split(".")[1].endswith("_") for name in made.names)
    wanted = computed(root_mean_square, table, IDS).float()
    torch.testing.assert_close(made.replayed(IDS), wanted, rtol=2e-5, atol=2e-5)


def test_what_is_written_over_and_read_elsewhere_is_refused() -> None:
    def shared(x: torch.Tensor) -> torch.Tensor:
        made = x * 2
        return made * (made + 1)

    made = recorded(shared, table_of(4))
    (sum_of_both,) = made.graph.graph.find_nodes(op="call_function", target=aten.add.Tensor)
    sum_of_both.target = aten.add_.Tensor
    with pytest.raises(NotRecorded, match=r"it computes aten\.add_"):
        made.replayed(IDS)


@pytest.mark.parametrize("name", ["aten.mul.Tensor", "aten._softmax.default", "aten.mm.default"])
def test_a_token_has_the_same_bits_alone(name: str) -> None:
    made = recorded(CASES[name][0], table_of(17))
    alone = torch.cat([made.replayed(one.view(1)) for one in IDS])
    assert torch.equal(made.replayed(IDS), alone)


REFUSED: dict[str, Function] = {
    "it computes aten.sort.default": lambda x: x.sort().values,
    "it reduces over a step's tokens": lambda x: x.sum(1),
    "it reduces over dimensions": lambda x: x.unflatten(3, (2, 2)).sum((2, 4)),
    "it takes the smallest numbers": lambda x: flat(x).topk(2, largest=False).values,
    "it takes the largest numbers of several": lambda x: x.topk(1).values,
    "it picks numbers by several indices": lambda x: x[:, :, torch.tensor([0]), torch.tensor([0])],
    "it picks some of a step's own numbers": lambda x: aten.index.Tensor(x, [whole(x)]),
    "it multiplies a step's tokens with each other": lambda x: flat(x) @ flat(x).t(),
    "it multiplies by weights of float64": lambda x: flat(x).double() @ own(x, 12, 2).double(),
    "it computes aten.bitwise_and.Tensor": lambda x: whole(x) & whole(x),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_rule_is_refused(reason: str) -> None:
    made = recorded(REFUSED[reason], table_of(4))
    with pytest.raises(NotRecorded, match=reason):
        made.replayed(IDS)
