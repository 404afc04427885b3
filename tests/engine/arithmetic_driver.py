"""Linear layers and operations on rows at a level: their arithmetic in a process of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from outrider_server.engine.program.computations import LOOPS, Operation
from outrider_server.engine.program.tables import ELEMENTS, INPUTS

from .kernel_levels import LINEAR, PACK, ROWS, DrivenUnit

TILE = 32
ROUNDS_TOKENS = ("amx", "avx512_bf16")
"""Levels that multiply tokens rounded to bfloat16 by weights of bfloat16."""


@dataclass(frozen=True)
class Operand:
    """Numbers of an array, from an offset on, by strides of the token and of each loop."""

    array: torch.Tensor
    token_stride: int = 0
    strides: tuple[int, ...] = (0,) * LOOPS
    offset: int = 0


class ArithmeticKernels(DrivenUnit):
    """See `linear.h` and `row_operations.h`."""

    def rounds_tokens(self, dtype: torch.dtype) -> bool:
        return dtype == torch.bfloat16 and self.level.name in ROUNDS_TOKENS

    def pack(self, weight: torch.Tensor) -> torch.Tensor:
        """weight [N, K] -> [tiles, padded K / 2, 64]."""
        outputs, inputs = weight.shape
        packed = weight.new_empty((-(-outputs // TILE), -(-inputs // TILE) * TILE // 2, 2 * TILE))
        return self._ask(PACK, (ELEMENTS[weight.dtype], outputs, inputs), (weight,), packed)

    def multiply(
        self,
        x: torch.Tensor,
        packed: torch.Tensor,
        bias: torch.Tensor | None,
        y: torch.Tensor,
        inputs: int,
        outputs: int,
    ) -> torch.Tensor:
        """x [T, at least K], y [T, at least N] float32 -> y with the products in it; a bias [N]."""
        biases = []
        if bias is not None:
            biases.append(torch.zeros(len(packed) * TILE))
            biases[0][:outputs] = bias
        sizes = (len(x), outputs, inputs, sum(map(len, biases)), x.shape[1], y.shape[1])
        header = (ELEMENTS[packed.dtype], *sizes)
        return self._ask(LINEAR, header, (x, packed, *biases, y), torch.empty_like(y))

    def compute(
        self, operation: Operation, tokens: int, sizes: tuple[int, ...], operands: Sequence[Operand]
    ) -> torch.Tensor:
        """The outcome's array, which is the first operand's, afterwards. Operands may share arrays."""
        arrays: list[torch.Tensor] = []
        places: list[int] = []
        for operand in (*operands, *[operands[0]] * (1 + INPUTS - len(operands))):
            which = next((i for i, each in enumerate(arrays) if each is operand.array), len(arrays))
            if which == len(arrays):
                arrays.append(operand.array)
            places += [which, operand.offset, operand.token_stride, *operand.strides]
        arrays += [torch.empty(0)] * (1 + INPUTS - len(arrays))
        lengths = [array.numel() for array in arrays]
        header = (operation, tokens, *sizes, *lengths, *places)
        return self._ask(ROWS, header, tuple(arrays), torch.empty_like(arrays[0]))

    def function(self, operation: Operation, *values: torch.Tensor) -> torch.Tensor:
        """Number by number, of float32 numbers [N] each: [N]."""
        strides = (0,) * (LOOPS - 1) + (1,)
        operands = [Operand(one, 0, strides) for one in (torch.empty_like(values[0]), *values)]
        return self.compute(operation, 1, (1, 1, 1, len(values[0])), operands)
