"""Quantized linear layers at a level: their arithmetic in a process of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from outrider_server.engine.model.quantized_weights import QuantizedWeight
from outrider_server.engine.program.weights import PackedLayer, packed_quantized

from .kernel_levels import PACK_QUANTIZED, QUANTIZED, DrivenUnit

BETWEEN = 3
"""Numbers between one row and the next."""
UNTOUCHED = 7.0


class QuantizedKernels(DrivenUnit):
    """See `quantized.h`."""

    def pack(self, weight: QuantizedWeight, bias: torch.Tensor | None) -> PackedLayer:
        """As the engine packs a layer, its numbers in this level's order."""
        here = packed_quantized(weight, bias)
        sizes = (8 if weight.codes is None else 4, *weight.numbers.shape)
        answer = torch.empty_like(here.packed)
        return replace(here, packed=self._ask(PACK_QUANTIZED, sizes, (weight.numbers,), answer))

    def multiply(self, layer: PackedLayer, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [T, K] -> [T, N] float32. What lies between rows is neither read nor written."""
        x = torch.full((len(tokens), layer.inputs + BETWEEN), math.nan)
        x[:, : layer.inputs] = tokens
        y = torch.full((len(tokens), layer.outputs + BETWEEN), UNTOUCHED)
        tables = [
            torch.empty(0) if each is None else each
            for each in (layer.scales, layer.offsets, layer.codes, layer.bias)
        ]
        counts = [each.numel() for each in (layer.packed, *tables)]
        strides = (x.shape[1], y.shape[1])
        sizes = (len(x), layer.outputs, layer.inputs, layer.group, *strides, *counts)
        got = self._ask(QUANTIZED, sizes, (x, y, layer.packed, *tables), torch.empty_like(y))
        assert (got[:, layer.outputs :] == UNTOUCHED).all()
        return got[:, : layer.outputs]
