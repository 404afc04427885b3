"""Packs the weights of a recorded model's linear layers, one by one.

A weight that has been packed is let go: neither the recording nor the model it came from holds it any longer.
Experts whose weights are one tensor are let go together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...core.progress import Progress, Report, Stage
from ..kernels.library import kernel_library
from ..model.quantized_weights import BLOCK, QuantizedWeight, quantized_weight
from .computations import LinearWeight, Lowered, QuantizedLayer
from .tables import ELEMENTS, Element

TILE = 32
"""Outputs that the kernels compute together."""
LINE = 64
"""Weights of a tile for two inputs."""


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
    """[tiles, groups, 32] float32, of quantized weights."""
    offsets: torch.Tensor | None = None
    """[tiles, groups, 32] float32, of quantized weights that have any."""
    codes: torch.Tensor | None = None
    """[16] int8, of weights of 4 bits."""
    group: int = 0
    """Inputs that share a scale and an offset: 32, or a multiple of 64. 0 for all."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A forward pass whose weights are packed."""

    lowered: Lowered
    layers: list[PackedLayer]


def pack_layers(
    lowered: Lowered, model: nn.Module, quantized: Sequence[Any], tell: Progress
) -> list[PackedLayer]:
    """The layers of a forward pass, which then are `lowered`'s no more; `quantized` are the model's."""
    owners = {_memory(weight): weight for weight in model.parameters()}
    left = Counter(_memory(each.weight) for each in _plain(lowered))
    total, done = sum(_bytes(layer, quantized) for layer in lowered.layers), 0
    packed = []
    while lowered.layers:
        layer = lowered.layers.pop(0)
        tell(Report(Stage.PACKING, done, total))
        done += _bytes(layer, quantized)
        if isinstance(layer, QuantizedLayer):
            held = quantized[layer.index]
            packed.append(packed_quantized(quantized_weight(held), held.bias))
            let_go(held)
            continue
        packed.append(packed_layer(layer.weight, layer.bias))
        memory = _memory(layer.weight)
        left[memory] -= 1
        if not left[memory] and memory in owners:
            owners[memory].data = layer.weight.new_empty(0)
    return packed


def _tensors(layer: nn.Module) -> dict[str, torch.Tensor]:
    """All that a quantized layer holds, by name."""
    return dict((*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)))


def let_go(layer: nn.Module) -> None:
    """Drops all that a quantized layer holds."""
    for name in _tensors(layer):
        setattr(layer, name, None)


def _plain(lowered: Lowered) -> Iterator[LinearWeight]:
    return (layer for layer in lowered.layers if isinstance(layer, LinearWeight))


def _memory(weight: torch.Tensor) -> int:
    """Of which a tensor is the whole or a part, as experts are of one that has all of them."""
    return weight.untyped_storage().data_ptr()


def _bytes(layer: LinearWeight | QuantizedLayer, quantized: Sequence[Any]) -> int:
    if isinstance(layer, QuantizedLayer):
        return sum(held.nbytes for held in _tensors(quantized[layer.index]).values())
    return layer.weight.nbytes


def packed_layer(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLayer:
    """A weight [N, K] and a bias that [N] takes, as the kernels take them."""
    outputs, inputs = weight.shape
    element = ELEMENTS[weight.dtype]
    pairs = -(-inputs // TILE) * TILE // 2
    packed = torch.zeros((-(-outputs // TILE), pairs, LINE), dtype=weight.dtype)
    kernel_library().pack(element, weight, packed)
    return PackedLayer(packed, element, outputs, inputs, _for_tiles(bias, outputs))


def packed_quantized(weight: QuantizedWeight, bias: torch.Tensor | None) -> PackedLayer:
    """A quantized layer's weights, whose biases [N] may be of any dtype."""
    outputs, inputs = weight.numbers.shape
    element = Element.EIGHT_BITS if weight.codes is None else Element.FOUR_BITS
    blocks = -(-inputs // BLOCK)
    shape = (-(-outputs // TILE), blocks * BLOCK // 4, 2 * LINE if weight.codes is None else LINE)
    packed = torch.zeros(shape, dtype=torch.uint8)
    kernel_library().pack(element, weight.numbers, packed)
    groups = weight.scales.shape[1]
    if weight.group == BLOCK // 2:
        groups = 2 * blocks
    return PackedLayer(
        packed,
        element,
        outputs,
        inputs,
        _for_tiles(bias, outputs),
        _tiles_of_groups(weight.scales, groups),
        None if weight.offsets is None else _tiles_of_groups(weight.offsets, groups),
        weight.codes,
        weight.group,
    )


def _for_tiles(bias: torch.Tensor | None, outputs: int) -> torch.Tensor | None:
    """[N], or one number for all -> float32 for all outputs of all tiles, zeros behind."""
    if bias is None:
        return None
    padded = torch.zeros(-(-outputs // TILE) * TILE)
    padded[:outputs] = bias.detach()
    return padded


def _tiles_of_groups(values: torch.Tensor, groups: int) -> torch.Tensor:
    """[N, at most `groups`] -> [tiles, groups, 32] float32, zeros where padded."""
    outputs, held = values.shape
    tiles = -(-outputs // TILE)
    padded = torch.zeros((tiles * TILE, groups))
    padded[:outputs, :held] = values
    return padded.view(tiles, TILE, groups).transpose(1, 2).contiguous()
