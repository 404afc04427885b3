"""A model as it is recorded: what to compute, and packed weights in the place of the model's own."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from ...core.errors import OutriderError
from ...core.progress import Progress
from ..model.rotary import LengthRotary
from . import operators, view_operators
from .computations import LinearWeight, LookedUp, Lowered
from .lowering import Lowering
from .recording import quantized_layers, record
from .views import NotRecorded
from .weights import PackedLayer, pack_layers

RULES_LOADED = (operators, view_operators)
"""Importing them makes the rules."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A forward pass whose weights are packed."""

    lowered: Lowered
    layers: list[PackedLayer]


_recorded: weakref.WeakKeyDictionary[PreTrainedModel, Recorded] = weakref.WeakKeyDictionary()


def recorded_model(
    model: PreTrainedModel, rotaries: Sequence[LengthRotary], tell: Progress
) -> Recorded:
    """Records a model and packs its weights, which the model itself has no longer; once a model.

    Raises NotRecorded, or ModelRefused for attention that is not served; the model is as it was then.
    """
    if model not in _recorded:
        lowered = _lowered(model, rotaries)
        layers = pack_layers(lowered, model, quantized_layers(model), tell)
        for weight in model.parameters():
            weight.data = weight.new_empty(0)
        _recorded[model] = Recorded(lowered, layers)
    return _recorded[model]


def _lowered(model: PreTrainedModel, rotaries: Sequence[LengthRotary]) -> Lowered:
    try:
        lowered = Lowering().lower(record(model, rotaries))
    except (NotRecorded, OutriderError):
        raise
    except Exception as error:  # whatever a model raises that looks at the content of its tokens
        raise NotRecorded(f"recording it raises {type(error).__name__}") from error
    _tie_tables(lowered)
    return lowered


def _tie_tables(lowered: Lowered) -> None:
    """Has rows that are a layer's weight too looked up in the packed one."""
    numbers = {
        (layer.weight.data_ptr(), layer.weight.shape): number
        for number, layer in enumerate(lowered.layers)
        if isinstance(layer, LinearWeight) and layer.weight.is_contiguous()
    }
    for index, one in enumerate(lowered.computations):
        if isinstance(one, LookedUp) and isinstance(one.table, torch.Tensor):
            number = numbers.get((one.table.data_ptr(), one.table.shape))
            if number is not None:
                lowered.computations[index] = replace(one, table=number)
