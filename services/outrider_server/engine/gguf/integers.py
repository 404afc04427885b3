"""Matrices of a GGUF file that stay as they are: integers of 8 or 4 bits in blocks of 32, and layers of them.

    Q8_0    float16 scale, 32 int8                       34 bytes
    Q4_0    float16 scale, 32 numbers of 4 bits less 8   18 bytes
    Q4_1    float16 scale and minimum, 32 of 4 bits      20 bytes

Byte j of 4 bits holds value j in its lower half and value j + 16 in its upper one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

GROUP = 32
LEAST = {"Q8_0": 0, "Q4_0": -8, "Q4_1": 0}
"""What is added to a number, by the names of the types that are taken apart here."""
FRONT = {"Q8_0": 2, "Q4_0": 2, "Q4_1": 4}
"""Bytes of a block in front of its numbers."""
SIZES = {"Q8_0": 34, "Q4_0": 18, "Q4_1": 20}
"""Bytes of a block."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """A matrix [N, K]: a number times a scale, plus an offset."""

    numbers: torch.Tensor
    """[N, K]: int8 of Q8_0, else uint8 below 16, to which LEAST is to be added."""
    scales: torch.Tensor
    """[N, K / 32] float32."""
    offsets: torch.Tensor | None
    """[N, K / 32] float32, of Q4_1."""
    kind: str

    def dequantized(self) -> torch.Tensor:
        """[N, K] float32."""
        outputs, groups = self.scales.shape
        values = (self.numbers.float() + LEAST[self.kind]).view(outputs, groups, GROUP)
        values = values * self.scales[..., None]
        if self.offsets is not None:
            values = values + self.offsets[..., None]
        return values.flatten(1)


def numbers_of(blocks: torch.Tensor, kind: str) -> Numbers:
    """Takes apart blocks [N, bytes] uint8."""
    rows, front = len(blocks), FRONT[kind]
    each = blocks.reshape(rows, -1, SIZES[kind])
    halves = each[..., :front].contiguous().view(torch.float16).float()
    values = each[..., front:]
    if kind == "Q8_0":
        numbers = values.reshape(rows, -1).view(torch.int8)
    else:
        numbers = torch.cat((values & 15, values >> 4), dim=-1).reshape(rows, -1)
    offsets = halves[..., 1].contiguous() if kind == "Q4_1" else None
    return Numbers(numbers, halves[..., 0].contiguous(), offsets, kind)


class GgufLinear(nn.Module):
    """A linear layer over the blocks of a file, in the place of `nn.Linear`.

    Computes by itself too, the plain way: every call spreads all weights out.
    """

    blocks: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear, kind: str, tensor: str) -> None:
        """Tensors without values, for the library to fill. `tensor` is the weight's name in the file."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.kind = kind
        self.tensor = tensor
        size = self.in_features // GROUP * SIZES[kind]
        self.register_buffer("blocks", torch.empty((self.out_features, size), dtype=torch.uint8))
        has_bias = linear.bias is not None
        self.register_buffer("bias", torch.empty(self.out_features) if has_bias else None)

    def widened(self, dtype: torch.dtype) -> nn.Linear:
        """The same as a plain layer."""
        layer = nn.Linear(self.in_features, self.out_features, self.bias is not None, dtype=dtype)
        with torch.no_grad():
            layer.weight.copy_(numbers_of(self.blocks, self.kind).dequantized())
            if self.bias is not None:
                layer.bias.copy_(self.bias)
        return layer

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [..., K] -> [..., N] of the same dtype."""
        out: torch.Tensor = gguf_linear(tokens, self.blocks, self.bias, self.kind)
        return out


def multiply_blocks(
    tokens: torch.Tensor, blocks: torch.Tensor, bias: torch.Tensor | None, kind: str
) -> torch.Tensor:
    """tokens [..., K] -> [..., N] of the same dtype, over blocks [N, bytes] uint8."""
    weight = numbers_of(blocks, kind).dequantized().to(tokens.dtype)
    return functional.linear(tokens, weight, None if bias is None else bias.to(tokens.dtype))


# An operator of its own is opaque to the compiler, which would write code for every weight's bits.
gguf_linear = torch.library.custom_op("outrider::gguf_linear", multiply_blocks, mutates_args=())


@gguf_linear.register_fake
def _gguf_linear_shape(tokens: torch.Tensor, blocks: torch.Tensor, *_: object) -> torch.Tensor:
    return tokens.new_empty((*tokens.shape[:-1], blocks.shape[0]))
