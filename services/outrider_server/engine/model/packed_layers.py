"""Linear layers on the engine's own kernels: over bfloat16 weights, and over weights of 8 and 4 bits."""

from __future__ import annotations

import torch
from torch import nn

from .quantized_weights import QuantizedWeight

TILE = 32
"""Outputs that the kernels compute together."""


class PackedLinear(nn.Module):
    """A linear layer over packed bfloat16 weights; takes the place of `nn.Linear`."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.out_features = linear.out_features
        self.dtype = dtype
        self.packed = torch.ops.outrider.pack_linear.default(linear.weight.detach().contiguous())
        self.bias = _for_tiles(linear.bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [..., K] bfloat16 -> [..., N] of `dtype`, summed in float32."""
        out: torch.Tensor = torch.ops.outrider.packed_linear.default(
            tokens, self.packed, self.bias, self.out_features, self.dtype
        )
        return out


class QuantizedLinear(nn.Module):
    """A linear layer over packed weights of 8 or 4 bits; takes the place of a quantized one."""

    def __init__(self, weight: QuantizedWeight, bias: torch.Tensor | None) -> None:
        super().__init__()
        operators = torch.ops.outrider
        pack = operators.pack_eight_bits if weight.codes is None else operators.pack_four_bits
        self.out_features = weight.numbers.shape[0]
        self.packed = pack.default(weight.numbers.contiguous())
        self.scales = _tiles_of_scales(weight.scales)
        self.codes = weight.codes
        self.bias = _for_tiles(bias)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [..., K] bfloat16 -> [..., N] bfloat16, exact within a block, float32 over blocks."""
        out: torch.Tensor = torch.ops.outrider.quantized_linear.default(
            tokens, self.packed, self.scales, self.codes, self.bias, self.out_features
        )
        return out


def _for_tiles(bias: torch.Tensor | None) -> torch.Tensor | None:
    """[N] -> float32 for all outputs of all tiles, zeros behind."""
    if bias is None:
        return None
    padded = torch.zeros(-(-len(bias) // TILE) * TILE)
    padded[: len(bias)] = bias.detach()
    return padded


def _tiles_of_scales(scales: torch.Tensor) -> torch.Tensor:
    """[N, blocks] -> [tiles, blocks, 32]."""
    outputs, blocks = scales.shape
    tiles = -(-outputs // TILE)
    padded = torch.zeros((tiles * TILE, blocks))
    padded[:outputs] = scales
    return padded.view(tiles, TILE, blocks).transpose(1, 2).contiguous()
