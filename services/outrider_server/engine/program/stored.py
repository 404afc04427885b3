"""Weights that are read from a checkpoint when they are needed: layers to pack, and tables.

A layer's pages are let go as soon as it is packed, so no weight is in memory twice.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import torch

from ...core.progress import Progress, Report, Stage
from ..model.weight_files import Weights
from .computations import (
    LookedUp,
    StoredIntegers,
    StoredLayer,
    StoredMatrix,
    StoredPart,
    StoredPass,
)
from .weights import PackedLayer, Recorded, packed_layer, packed_quantized


def read_part(files: Weights, part: StoredPart) -> torch.Tensor:
    """[R, C], a view of the file's pages where it can be one. Raises KeyError or IndexError."""
    tensor = files.tensor(part.name)
    matrix = tensor if part.index is None else tensor[part.index]
    return matrix.t() if part.turned else matrix


def read_first_row(files: Weights, part: StoredPart) -> torch.Tensor:
    """[C] of a part. Raises KeyError or IndexError for what is not there."""
    return read_part(files, part)[0] if part.turned else files.first_row(part.name, part.index)


def read_matrix(files: Weights, matrix: StoredMatrix) -> torch.Tensor:
    """[rows, columns] of its dtype: a view of the file's pages where it can be one."""
    parts = [read_part(files, part).to(matrix.dtype) for part in matrix.parts]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    if whole.shape != (matrix.rows, matrix.columns):
        raise IndexError(f"{matrix.parts[0].name} has another shape")
    return whole


def packed_pass(stored: StoredPass, files: Weights, tell: Progress) -> Recorded:
    """A forward pass with its layers and tables in memory. Raises KeyError or IndexError."""
    total, done = sum(_bytes(files, layer) for layer in stored.layers), 0
    packed: list[PackedLayer] = []
    for layer in stored.layers:
        tell(Report(Stage.PACKING, done, total))
        done += _bytes(files, layer)
        if isinstance(layer, StoredIntegers):
            packed.append(packed_quantized(files.quantized(layer.name), layer.bias))
            files.let_go(layer.name)
            continue
        packed.append(packed_layer(read_matrix(files, layer.matrix), layer.bias))
        _let_go(files, layer.matrix)
    lowered = stored.lowered
    for index, one in enumerate(lowered.computations):
        if isinstance(one, LookedUp) and isinstance(one.table, StoredMatrix):
            table = read_matrix(files, one.table).clone()
            lowered.computations[index] = replace(one, table=table)
            _let_go(files, one.table)
    return Recorded(lowered, packed)


def _bytes(files: Weights, layer: StoredLayer | StoredIntegers) -> int:
    if isinstance(layer, StoredIntegers):
        return prod(files.shape(layer.name))
    matrix = layer.matrix
    return matrix.rows * matrix.columns * matrix.dtype.itemsize


def _let_go(files: Weights, matrix: StoredMatrix) -> None:
    for name in {part.name for part in matrix.parts}:
        files.let_go(name)
