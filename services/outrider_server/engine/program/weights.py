"""The weights of a recorded model's linear layers, packed one by one as the recording is lowered.

A weight that has been packed is let go: the model it came from holds it no longer. A table of embeddings that
is a layer's weight too is looked up in the packed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...core.progress import Progress, Report, Stage
from ..kernels.library import kernel_library
from ..model.quantized_weights import QuantizedWeight, quantized_weight
from .tables import ELEMENTS, Element
from .views import NotRecorded

TILE = 32
"""Outputs that the kernels compute together."""
LINE = 64
"""Weights of a tile for two inputs."""
Key = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """A layer's weights as the kernels take them."""

    packed: torch.Tensor
    element: Element
    outputs: int
    inputs: int
    bias: torch.Tensor | None = None
    """[32 * tiles] float32."""
    scales: torch.Tensor | None = None
    """[tiles, 1 or blocks, 32] float32, of quantized weights."""
    codes: torch.Tensor | None = None
    """[16] int8, of weights of 4 bits."""


class Weights:
    """Packs a model's weights, and keeps them."""

    def __init__(self, model: nn.Module, quantized: Sequence[Any], tell: Progress) -> None:
        self.layers: list[PackedLayer] = []
        self._numbers: dict[tuple[Key, int], int] = {}
        self._by_weight: dict[Key, int] = {}
        self._owners = {weight.data_ptr(): weight for weight in model.parameters()}
        self._quantized = list(quantized)
        self._tell = tell
        self._total = sum(weight.nbytes for weight in self._owners.values() if weight.dim() > 1)
        self._done = 0

    def of_weight(self, weight: torch.Tensor, bias: torch.Tensor | None) -> int:
        """The number of the layer with this weight [N, K] and bias [N]. Raises NotRecorded for other dtypes."""
        if weight.dtype not in ELEMENTS:
            raise NotRecorded(
                f"it multiplies by weights of {str(weight.dtype).removeprefix('torch.')}"
            )
        key = _key(weight)
        both = key, 0 if bias is None else bias.data_ptr()
        if both not in self._numbers:
            self._tell(Report(Stage.PACKING, min(self._done, self._total), self._total))
            self._done += weight.nbytes
            self._numbers[both] = self._by_weight[key] = len(self.layers)
            self.layers.append(_packed(weight, bias))
            self._let_go(weight)
        return self._numbers[both]

    def of_quantized(self, index: int) -> int:
        """The number of one of the model's quantized layers, which is let go."""
        layer = self._quantized[index]
        self.layers.append(_packed_quantized(quantized_weight(layer), layer.bias))
        layer.weight = None
        return len(self.layers) - 1

    def packed_table(self, table: torch.Tensor) -> PackedLayer | None:
        """The layer whose weight a table of embeddings is, if it is one."""
        number = self._by_weight.get(_key(table))
        return None if number is None else self.layers[number]

    def _let_go(self, weight: torch.Tensor) -> None:
        owner = self._owners.get(weight.data_ptr())
        if owner is not None and owner.numel() == weight.numel():
            owner.data = torch.empty(0, dtype=owner.dtype)


def _key(weight: torch.Tensor) -> Key:
    return weight.data_ptr(), tuple(weight.shape)


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLayer:
    outputs, inputs = weight.shape
    element = ELEMENTS[weight.dtype]
    pairs = -(-inputs // TILE) * TILE // 2
    packed = torch.zeros((-(-outputs // TILE), pairs, LINE), dtype=weight.dtype)
    kernel_library().pack(element, weight, packed)
    return PackedLayer(packed, element, outputs, inputs, _for_tiles(bias, outputs))


def _packed_quantized(weight: QuantizedWeight, bias: torch.Tensor | None) -> PackedLayer:
    outputs, inputs = weight.numbers.shape
    operators = torch.ops.outrider
    pack = operators.pack_eight_bits if weight.codes is None else operators.pack_four_bits
    return PackedLayer(
        pack.default(weight.numbers.contiguous()),
        Element.EIGHT_BITS if weight.codes is None else Element.FOUR_BITS,
        outputs,
        inputs,
        _for_tiles(bias, outputs),
        _tiles_of_scales(weight.scales),
        weight.codes,
    )


def _for_tiles(bias: torch.Tensor | None, outputs: int) -> torch.Tensor | None:
    """[N], or one number for all -> float32 for all outputs of all tiles, zeros behind."""
    if bias is None:
        return None
    padded = torch.zeros(-(-outputs // TILE) * TILE)
    padded[:outputs] = bias.detach()
    return padded


def _tiles_of_scales(scales: torch.Tensor) -> torch.Tensor:
    """[N, blocks] -> [tiles, blocks, 32]."""
    outputs, blocks = scales.shape
    tiles = -(-outputs // TILE)
    padded = torch.zeros((tiles * TILE, blocks))
    padded[:outputs] = scales
    return padded.view(tiles, TILE, blocks).transpose(1, 2).contiguous()
