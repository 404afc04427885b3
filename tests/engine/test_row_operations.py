"""Operations on rows against torch, wherever their operands lie, at every level."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from outrider_server.engine.cpp_compiler import cpp_compiler
from outrider_server.engine.program.computations import Operation

from .arithmetic_driver import ArithmeticKernels, Operand
from .kernel_levels import DRIVEN_UNITS

pytestmark = pytest.mark.skipif(not cpp_compiler(), reason="no C++ compiler was found")

UNTOUCHED = 77.0
Function = Callable[..., torch.Tensor]
UNARY: dict[Operation, Function] = {
    Operation.COPY: lambda x: x.clone(),
    Operation.NEGATE: torch.neg,
    Operation.ABSOLUTE: torch.abs,
    Operation.SQUARE_ROOT: torch.sqrt,
    Operation.RECIPROCAL_SQUARE_ROOT: torch.rsqrt,
    Operation.RECIPROCAL: torch.reciprocal,
    Operation.EXPONENTIAL: torch.exp,
    Operation.DECAY: lambda x: x.clamp(max=0).exp(),
    Operation.LOGARITHM: torch.log,
    Operation.SINE: torch.sin,
    Operation.COSINE: torch.cos,
    Operation.TANH: torch.tanh,
    Operation.SIGMOID: torch.sigmoid,
    Operation.SILU: torch.nn.functional.silu,
    Operation.GELU: torch.nn.functional.gelu,
    Operation.GELU_TANH: lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
    Operation.ERF: torch.erf,
    Operation.RELU: torch.relu,
    Operation.FLOOR: torch.floor,
    Operation.NOT: torch.logical_not,
}
BINARY: dict[Operation, Function] = {
    Operation.ADD: torch.add,
    Operation.SUBTRACT: torch.sub,
    Operation.MULTIPLY: torch.mul,
    Operation.DIVIDE: torch.div,
    Operation.POWER: torch.pow,
    Operation.LARGER: torch.maximum,
    Operation.SMALLER: torch.minimum,
    Operation.EQUAL: torch.eq,
    Operation.LESS: torch.lt,
    Operation.AT_MOST: torch.le,
    Operation.AND: torch.logical_and,
    Operation.OR: torch.logical_or,
}
FUNCTIONS = UNARY | BINARY | {Operation.SELECT: lambda m, a, b: torch.where(m != 0, a, b)}
REDUCTIONS = {Operation.SUM, Operation.LARGEST, Operation.TOP}
OPERANDS = dict.fromkeys(UNARY, 1) | dict.fromkeys(BINARY, 2)
OPERANDS[Operation.SELECT] = 3
SIZES = st.tuples(
    st.integers(1, 2),
    st.integers(1, 2),
    st.integers(1, 3),
    st.integers(1, 40),
)


@pytest.fixture(scope="module", params=DRIVEN_UNITS)
def kernels(request: pytest.FixtureRequest) -> Iterator[ArithmeticKernels]:
    opened = ArithmeticKernels(request.param)
    yield opened
    opened.close()


@st.composite
def operands(draw: st.DrawFn, tokens: int, sizes: tuple[int, ...], written: bool) -> Operand:
    """Numbers whose loops lie in any order with gaps between; what is only read may be repeated."""
    strides, stride = [0] * len(sizes), 1 + draw(st.integers(0, 1))
    for loop in draw(st.permutations(range(len(sizes)))):
        if not written and draw(st.booleans()) and draw(st.booleans()):
            continue
        strides[loop] = stride
        stride *= sizes[loop]
    offset, token_stride = draw(st.integers(0, 3)), stride + draw(st.integers(0, 5))
    array = torch.empty(offset + tokens * token_stride + 3)
    return Operand(array, token_stride, tuple(strides), offset)


def seen(operand: Operand, tokens: int, sizes: tuple[int, ...]) -> torch.Tensor:
    """[tokens, *sizes], as the operand lies there."""
    strides = (operand.token_stride, *operand.strides)
    return operand.array.as_strided((tokens, *sizes), strides, operand.offset)


def fill(operand: Operand, operation: Operation, seed: int) -> None:
    """Some numbers are equal, and some are zero; those that have no logarithm or root are left out."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(operand.array.shape, generator=generator).mul(4).round().div(2)
    roots = (Operation.SQUARE_ROOT, Operation.RECIPROCAL_SQUARE_ROOT, Operation.LOGARITHM)
    if operation in (*roots, Operation.POWER):
        numbers = numbers.abs() + 0.5
    if operation is Operation.DECAY:
        numbers = -numbers.abs()
    if operation in (Operation.RECIPROCAL, Operation.DIVIDE):
        numbers += 0.25
    operand.array.copy_(numbers)


def test_every_operation_has_its_case() -> None:
    assert set(FUNCTIONS) | REDUCTIONS == set(Operation)


@settings(max_examples=150)
@given(data=st.data(), tokens=st.integers(1, 3), sizes=SIZES, threads=st.integers(1, 2))
def test_an_operation_is_torchs_wherever_its_operands_lie(
    kernels: ArithmeticKernels,
    data: st.DataObject,
    tokens: int,
    sizes: tuple[int, ...],
    threads: int,
) -> None:
    """And it writes nothing beside its outcome."""
    kernels.set_threads(threads)
    operation = data.draw(st.sampled_from(sorted(FUNCTIONS)))
    out = data.draw(operands(tokens, sizes, written=True))
    inputs = [data.draw(operands(tokens, sizes, False)) for _ in range(OPERANDS[operation])]
    for index, one in enumerate(inputs):
        fill(one, operation, index)
    out.array.fill_(UNTOUCHED)
    got = kernels.compute(operation, tokens, sizes, [out, *inputs])
    values = FUNCTIONS[operation](*(seen(one, tokens, sizes).double() for one in inputs))
    seen(out, tokens, sizes).copy_(values)
    torch.testing.assert_close(got, out.array, rtol=1e-6, atol=1e-6)


@settings(max_examples=40)
@given(data=st.data(), tokens=st.integers(1, 3), sizes=SIZES)
def test_an_outcome_may_lie_where_an_input_lies_alike(
    kernels: ArithmeticKernels, data: st.DataObject, tokens: int, sizes: tuple[int, ...]
) -> None:
    operation = data.draw(st.sampled_from(sorted(BINARY)))
    place, other = (data.draw(operands(tokens, sizes, written)) for written in (True, False))
    for index, one in enumerate((place, other)):
        fill(one, operation, index)
    apart = Operand(place.array.clone(), place.token_stride, place.strides, place.offset)
    wanted = kernels.compute(operation, tokens, sizes, [apart, place, other])
    assert torch.equal(kernels.compute(operation, tokens, sizes, [place, place, other]), wanted)


@settings(max_examples=40)
@given(data=st.data(), tokens=st.integers(1, 3), sizes=SIZES)
def test_numbers_are_summed_up_and_the_largest_found(
    kernels: ArithmeticKernels, data: st.DataObject, tokens: int, sizes: tuple[int, ...]
) -> None:
    outer = (*sizes[:3], 1)
    out, numbers = (
        data.draw(operands(tokens, outer, written=True)),
        data.draw(operands(tokens, sizes, written=False)),
    )
    fill(numbers, Operation.SUM, 0)
    for operation, factor in ((Operation.SUM, 0.25), (Operation.LARGEST, None)):
        out.array.fill_(UNTOUCHED)
        scale = [] if factor is None else [Operand(torch.tensor([factor]))]
        got = kernels.compute(operation, tokens, sizes, [out, numbers, *scale])
        held = seen(numbers, tokens, sizes).double()
        wanted = held.amax(-1) if factor is None else held.sum(-1) * factor
        seen(out, tokens, outer).copy_(wanted[..., None])
        torch.testing.assert_close(got, out.array, rtol=1e-6, atol=1e-5)


@settings(max_examples=30)
@given(
    tokens=st.integers(1, 3),
    size=st.integers(1, 40),
    stride=st.integers(1, 2),
    wanted=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_the_top_numbers_come_in_order_and_of_equal_ones_the_first(
    kernels: ArithmeticKernels, tokens: int, size: int, stride: int, wanted: int, seed: int
) -> None:
    count = min(wanted, size)
    numbers = Operand(torch.empty(tokens * size * stride), size * stride, (0, 0, 0, stride))
    fill(numbers, Operation.TOP, seed)
    out = Operand(torch.empty((tokens, 2 * count)), 2 * count)
    got = kernels.compute(Operation.TOP, tokens, (1, 1, count, size), [out, numbers])
    held = seen(numbers, tokens, (1, 1, 1, size)).view(tokens, size)
    values, places = held.sort(dim=1, descending=True, stable=True)
    assert torch.equal(got, torch.cat((values[:, :count], places[:, :count].float()), dim=1))


SPECIAL = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.5, 2.0])


@pytest.mark.parametrize(
    "operation", sorted(FUNCTIONS.keys() - {Operation.DECAY}), ids=lambda operation: operation.name
)
def test_what_is_no_finite_number_comes_to_what_torch_makes_of_it(
    kernels: ArithmeticKernels, operation: Operation
) -> None:
    values = torch.cartesian_prod(*[SPECIAL] * OPERANDS[operation]).view(-1, OPERANDS[operation]).T
    wanted = FUNCTIONS[operation](*values.double()).float()
    got = kernels.function(operation, *values.contiguous())
    torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("size", [1, 16, 17, 40])
def test_a_reduction_of_what_is_no_number_is_none(kernels: ArithmeticKernels, size: int) -> None:
    for place in {0, size - 1, size // 2}:
        numbers = torch.randn(size, generator=torch.Generator().manual_seed(0))
        numbers[place] = math.nan
        lies = Operand(numbers, 0, (0, 0, 0, 1))
        scale = [Operand(torch.ones(1))]
        for operation, more in ((Operation.SUM, scale), (Operation.LARGEST, [])):
            out = Operand(torch.empty(1))
            assert kernels.compute(operation, 1, (1, 1, 1, size), [out, lies, *more]).isnan()
