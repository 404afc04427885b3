"""The kernels' functions of numbers against float64, at every level: the bounds that `functions.h` states."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from outrider_server.engine.cpp_compiler import cpp_compiler
from outrider_server.engine.program.computations import Operation

from .arithmetic_driver import ArithmeticKernels
from .kernel_levels import DRIVEN_UNITS

pytestmark = pytest.mark.skipif(not cpp_compiler(), reason="no C++ compiler was found")

NORMAL = 87.0
"""e^-87 is the last that every level has: what is smaller is hardly a number."""
NOT_FINITE = torch.tensor([math.nan, math.inf, -math.inf])


@dataclass(frozen=True)
class Bound:
    """A function in float64, and the most that it is off: of one or of |x| if that is more, and of itself."""

    function: Callable[[torch.Tensor], torch.Tensor]
    absolute: float
    relative: float = math.inf


FUNCTIONS = {
    Operation.DECAY: Bound(torch.exp, 2**-22, 2**-22),
    Operation.SIGMOID: Bound(torch.sigmoid, 2**-23, 2**-21.5),
    Operation.SILU: Bound(torch.nn.functional.silu, 2**-22.5, 2**-21.5),
    Operation.TANH: Bound(torch.tanh, 2**-23, 2**-21.9),
    Operation.ERF: Bound(torch.erf, 2**-21),
    Operation.GELU: Bound(torch.nn.functional.gelu, 2**-22),
    Operation.GELU_TANH: Bound(lambda x: torch.nn.functional.gelu(x, approximate="tanh"), 2**-22.5),
}


def arguments(operation: Operation) -> torch.Tensor:
    """Numbers of every size, dense where functions bend; an odd number of them."""
    tiny = torch.logspace(-30, 0, 3001)
    x = torch.cat((torch.linspace(-20, 20, 40001), tiny, -tiny, torch.linspace(-95, 95, 20001)))
    x = torch.cat((x, torch.tensor([0.0, -0.0, 0.25, -0.25, 3e38, -3e38])))
    return -x.abs() if operation is Operation.DECAY else x


@pytest.fixture(scope="module", params=DRIVEN_UNITS)
def kernels(request: pytest.FixtureRequest) -> Iterator[ArithmeticKernels]:
    opened = ArithmeticKernels(request.param)
    yield opened
    opened.close()


@pytest.mark.parametrize("operation", FUNCTIONS, ids=lambda operation: operation.name)
def test_a_function_is_as_near_as_it_says(kernels: ArithmeticKernels, operation: Operation) -> None:
    bound, x = FUNCTIONS[operation], arguments(operation)
    wanted = bound.function(x.double())
    off = (kernels.function(operation, x).double() - wanted).abs()
    off[(wanted == 0) & (off < 1e-37)] = 0
    assert (off / x.double().abs().clamp(min=1)).max() < bound.absolute
    normal = (x.abs() <= NORMAL) & (wanted.abs() > 1e-37)
    assert (off / wanted.abs())[normal].max() < bound.relative


@pytest.mark.parametrize("operation", FUNCTIONS, ids=lambda operation: operation.name)
def test_a_function_of_what_is_no_finite_number_is_torchs(
    kernels: ArithmeticKernels, operation: Operation
) -> None:
    x = NOT_FINITE if operation is not Operation.DECAY else NOT_FINITE[::2]
    wanted = FUNCTIONS[operation].function(x.double()).float()
    got = kernels.function(operation, x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
