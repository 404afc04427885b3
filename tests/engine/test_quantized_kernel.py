"""The quantized linear kernel against float64, at every level, and what a token's bits may depend on.

It sums a block of 64 inputs, or half of it, exactly, as integers of 8 bits. So an input is off by at most
1/254 of the largest of its block; where that one stands out, 128 times less. Blocks and their offsets are
added in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models_for_tests import needs_kernels
from outrider_server.engine.model.quantized_weights import BLOCK, LARGEST_CODES, QuantizedWeight
from outrider_server.engine.program.weights import packed_quantized

from .kernel_levels import LEVEL_NAMES
from .products import multiply
from .quantized_driver import QuantizedKernels
from .subjects import random

pytestmark = needs_kernels
CODES = {
    "any": torch.tensor([-127, -99, -71, -55, -40, -31, -2, 0, 1, 3, 17, 28, 56, 77, 100, 126]),
    "narrow": torch.tensor([-64, -50, -41, -33, -20, -11, -2, 0, 1, 3, 9, 15, 28, 37, 51, 64]),
    "counted": torch.arange(-8, 8),
}
"""Where the CPU has no products of four, all but the first are multiplied as bytes."""
LEAST = 1e-30
"""A block whose largest input is below this counts as zeros."""


@dataclass(frozen=True)
class Format:
    """How weights are kept. `group` inputs share a scale, all where it is 0."""

    bits: int
    group: int
    offsets: bool = False
    kind: str = "any"
    """Of `CODES`."""

    def __str__(self) -> str:
        kind = f" {self.kind}" if self.bits == 4 else ""
        return f"{self.bits}x{self.group}{'+' if self.offsets else ''}{kind}"

    @property
    def codes(self) -> torch.Tensor:
        """Of 4 bits."""
        return CODES[self.kind]


FORMATS = [
    Format(bits, group, offsets, kind)
    for bits, kind in ((8, "any"), (4, "any"), (4, "narrow"), (4, "counted"))
    for group in (0, 32, 64, 128)
    for offsets in (False, True)
]
FEW = [
    Format(8, 0),
    Format(4, 64),
    Format(8, 32),
    Format(4, 32, True),
    Format(4, 32, True, "narrow"),
    Format(4, 64, kind="narrow"),
    Format(4, 32, kind="counted"),
    Format(4, 128, True, "counted"),
]
ANY = st.sampled_from(FORMATS)
few_formats = pytest.mark.parametrize("kept", FEW, ids=str)


@pytest.fixture(scope="module", params=LEVEL_NAMES)
def kernels(request: pytest.FixtureRequest) -> Iterator[QuantizedKernels]:
    opened = QuantizedKernels(request.param)
    yield opened
    opened.close()


@dataclass(frozen=True)
class Case:
    """A layer's weights, and what they stand for: [N, K] float64."""

    quantized: QuantizedWeight
    weight: torch.Tensor
    bias: torch.Tensor
    magnitude: torch.Tensor
    """Of a weight without its offset, and of the offset, added."""


def case(
    kept: Format, outputs: int, inputs: int, seed: int = 0, codes: torch.Tensor | None = None
) -> Case:
    """Random numbers, scales and offsets, and a bias."""
    generator = torch.Generator().manual_seed(seed)
    shape = (outputs, -(-inputs // kept.group) if kept.group else 1)
    scales = torch.rand(shape, generator=generator) + 0.5
    offsets = torch.randn(shape, generator=generator) * 50 if kept.offsets else None
    bias = torch.randn(outputs, generator=generator)
    if kept.bits == 8:
        numbers = torch.randint(-127, 128, (outputs, inputs), generator=generator)
        integers, table = numbers, None
    else:
        numbers = torch.randint(0, 16, (outputs, inputs), generator=generator)
        codes = kept.codes if codes is None else codes
        integers, table = codes[numbers], codes.to(torch.int8)
    numbers = numbers.to(torch.int8 if table is None else torch.uint8)
    weight = QuantizedWeight(numbers, scales, table, offsets, kept.group)
    scaled = integers.double() * for_inputs(scales, kept, inputs)
    added = torch.zeros(()) if offsets is None else for_inputs(offsets, kept, inputs)
    return Case(weight, scaled + added, bias, scaled.abs() + added.abs())


def for_inputs(values: torch.Tensor, kept: Format, inputs: int) -> torch.Tensor:
    """[N, groups] -> [N, K] float64."""
    return values.double().repeat_interleave(kept.group or inputs, dim=1)[:, :inputs]


def rounding(tokens: torch.Tensor) -> torch.Tensor:
    """The most that each input may be off: [tokens, K] float64."""
    count, inputs = tokens.shape
    padded = torch.zeros((count, -(-inputs // BLOCK) * BLOCK), dtype=torch.float64)
    padded[:, :inputs] = tokens.double().abs()
    blocks = padded.view(count, -1, BLOCK)
    largest = blocks.amax(dim=2, keepdim=True)
    step = (largest / 127).clamp(min=1e-300)
    stands_out = (blocks / step).round().sum(dim=2, keepdim=True) * 16 < 127 * BLOCK
    off = torch.where(stands_out, step / 250, step / 1.99)
    off = torch.where(largest < LEAST, blocks, off)
    return off.view(count, -1)[:, :inputs]


@settings(max_examples=60)
@given(
    kept=ANY,
    tokens=st.integers(1, 70) | st.integers(120, 140),
    inputs=st.integers(1, 200),
    outputs=st.integers(1, 100) | st.integers(900, 1300),
    threads=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_a_quantized_product_is_the_product(
    kernels: QuantizedKernels,
    kept: Format,
    tokens: int,
    inputs: int,
    outputs: int,
    threads: int,
    seed: int,
) -> None:
    kernels.set_threads(threads)
    made = case(kept, 1 + outputs // kernels.thrift, inputs, seed)
    x = random(tokens, inputs, seed=seed + 1).float()
    x[:: 1 + seed % 3, seed % inputs] *= 10 ** (seed % 5)
    wanted = x.double() @ made.weight.T + made.bias
    added = x.double().abs() @ made.magnitude.T + made.bias.abs()
    of_inputs = rounding(x) @ made.weight.abs().T
    got = kernels.multiply(kernels.pack(made.quantized, made.bias), x)
    steps = 2 * (inputs // 32) + 4
    assert ((got.double() - wanted).abs() <= added * steps * 2**-23 + of_inputs).all()


@few_formats
@pytest.mark.parametrize("largest", [127, 127 * 64])
@pytest.mark.parametrize("tokens", [1, 2, 3, 4, 7, 8, 9, 70])
def test_whole_numbers_are_summed_exactly(
    kernels: QuantizedKernels, kept: Format, largest: int, tokens: int
) -> None:
    """Inputs of up to 64, one of each block but 127 or that 64 times."""
    generator = torch.Generator().manual_seed(tokens)
    numbers = torch.randint(-127, 128, (45, 150), generator=generator)
    x = torch.randint(-64, 65, (tokens, 150), generator=generator).float()
    x[::2, ::BLOCK] = largest
    x[1::2, ::BLOCK] = 127
    shape = (45, -(-150 // kept.group) if kept.group else 1)
    offsets = torch.randint(-9, 10, shape, generator=generator).float() if kept.offsets else None
    weight = QuantizedWeight(
        numbers.to(torch.int8), torch.ones(shape), offsets=offsets, group=kept.group
    )
    if kept.bits == 4:
        places = numbers.remainder(16)
        weight = replace(weight, numbers=places.to(torch.uint8), codes=kept.codes.to(torch.int8))
        numbers = kept.codes[places]
    stands_for = numbers.double()
    if offsets is not None:
        stands_for = stands_for + for_inputs(offsets, kept, 150)
    wanted = (x.double() @ stands_for.T).float()
    assert torch.equal(kernels.multiply(kernels.pack(weight, None), x), wanted)


@pytest.mark.parametrize("kept", FORMATS, ids=str)
def test_every_weight_stands_where_it_belongs(kernels: QuantizedKernels, kept: Format) -> None:
    """A token that is 1 at one input and 0 elsewhere gives that input's weights."""
    made = case(kept, 70, 170)
    got = kernels.multiply(kernels.pack(made.quantized, made.bias), torch.eye(170))
    torch.testing.assert_close(got.double(), made.weight.T + made.bias, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("kept", FORMATS, ids=str)
def test_every_level_and_a_recorded_step_give_the_same_bits(
    kernels: QuantizedKernels, kept: Format
) -> None:
    made, x = case(kept, 70, 320), random(9, 320).float()
    x[2:4, 70] = 400.0
    wanted = multiply(packed_quantized(made.quantized, made.bias), x)
    assert torch.equal(kernels.multiply(kernels.pack(made.quantized, made.bias), x), wanted)


@settings(max_examples=30)
@given(
    kept=ANY,
    begin=st.integers(0, 69),
    count=st.integers(1, 70),
    threads=st.integers(1, 3),
    inputs=st.sampled_from([1, 31, 64, 97, 320]),
)
def test_a_tokens_product_has_the_same_bits_in_any_company(
    kernels: QuantizedKernels, kept: Format, begin: int, count: int, threads: int, inputs: int
) -> None:
    made, x = case(kept, 300, inputs), random(70, inputs).float()
    x[::7, 0] = 300.0
    layer = kernels.pack(made.quantized, made.bias)
    kernels.set_threads(1)
    together = kernels.multiply(layer, x)
    kernels.set_threads(threads)
    part = slice(begin, min(begin + count, 70))
    assert torch.equal(kernels.multiply(layer, x[part]), together[part])


@few_formats
def test_tokens_one_by_one_have_the_bits_that_they_have_together(
    kernels: QuantizedKernels, kept: Format
) -> None:
    made, x = case(kept, 70, 200), random(20, 200).float()
    x[::3, 0] = 300.0
    layer = kernels.pack(made.quantized, made.bias)
    alone = torch.cat([kernels.multiply(layer, token[None]) for token in x])
    assert torch.equal(kernels.multiply(layer, x), alone)


@pytest.mark.parametrize("largest", LARGEST_CODES)
@pytest.mark.parametrize("of_inputs", [1, -1])
@pytest.mark.parametrize("of_weights", [1, -1])
def test_the_largest_inputs_and_weights_are_multiplied_whole(
    kernels: QuantizedKernels, largest: int, of_inputs: int, of_weights: int
) -> None:
    """No sum of products of 8 bits is cut off on its way to 32 bits."""
    made = case(Format(4, 64), 33, 128, codes=torch.full((16,), of_weights * largest))
    x = torch.full((9, 128), of_inputs * 255 / 128)
    wanted = x.double() @ made.weight.T + made.bias
    got = kernels.multiply(kernels.pack(made.quantized, made.bias), x)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("first", [-15, -8, 0])
@pytest.mark.parametrize("group", [32, 64])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_inputs_and_codes_that_follow_each_other_are_multiplied_whole(
    kernels: QuantizedKernels, sign: int, group: int, first: int
) -> None:
    """No sum of products with weights below 16 is cut off on its way to 16 bits."""
    numbers = torch.full((33, 128), 15, dtype=torch.uint8)
    codes = torch.arange(first, first + 16, dtype=torch.int8)
    weight = QuantizedWeight(numbers, torch.ones((33, 128 // group)), codes, group=group)
    got = kernels.multiply(kernels.pack(weight, None), torch.full((9, 128), sign * 127.0))
    assert torch.equal(got, torch.full((9, 33), sign * 127.0 * 128 * (first + 15)))


@few_formats
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_no_number_stays_with_its_token(
    kernels: QuantizedKernels, kept: Format, value: str
) -> None:
    made, x = case(kept, 40, 200), random(9, 200).float()
    layer = kernels.pack(made.quantized, made.bias)
    wanted = kernels.multiply(layer, x)
    x[4, 70] = float(value)
    got = kernels.multiply(layer, x)
    assert got[4].isnan().all()
    others = [0, 1, 2, 3, 5, 6, 7, 8]
    assert torch.equal(got[others], wanted[others])


@few_formats
@pytest.mark.parametrize("size", [0.0, 1e-40, 3e-31, 1e-28, 1e30])
def test_inputs_of_any_size_are_scaled(
    kernels: QuantizedKernels, kept: Format, size: float
) -> None:
    made, x = case(kept, 40, 200), random(3, 200).float() * size
    wanted = x.double() @ made.weight.T
    off = rounding(x) @ made.weight.abs().T + (x.double().abs() @ made.magnitude.T) * 2**-19
    got = kernels.multiply(kernels.pack(made.quantized, None), x)
    assert ((got.double() - wanted).abs() <= off + 1e-37).all()
