"""A model as it is recorded: what to compute, and packed weights in the place of the model's own."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from ...core.errors import OutriderError
from ...core.progress import Progress
from ..model.rotary import LengthRotary
from ..model.weight_files import Weights
from . import layer_operators, operators, view_operators
from .computations import LinearWeight, LookedUp, Lowered
from .finding import Finder
from .lowering import Lowering
from .recording import quantized_layers, record
from .stored import packed_pass
from .views import NotRecorded
from .weights import Recorded, let_go, pack_layers
from .written import Written, read_pass, written_pass

RULES_LOADED = (layer_operators, operators, view_operators)
"""Importing them makes the rules."""


_recorded: weakref.WeakKeyDictionary[PreTrainedModel, Recorded] = weakref.WeakKeyDictionary()


def recorded_model(
    model: PreTrainedModel,
    rotaries: Sequence[LengthRotary],
    tell: Progress,
    weights: Weights | None = None,
    keep: Callable[[Written], None] | None = None,
) -> Recorded:
    """Records a model and packs its weights, which the model itself has no longer; once a model.

    Where they stand in these `weights` of files they are packed from there, and `keep` gets what a later
    start needs beside the files. Raises NotRecorded, or ModelRefused for attention that is not served; the
    model is as it was then.
    """
    if model not in _recorded:
        lowered = _lowered(model, rotaries)
        quantized = quantized_layers(model)
        written = None if weights is None else written_pass(lowered, Finder(weights), quantized)
        if weights is None or written is None:
            layers = pack_layers(lowered, model, quantized, tell)
            _empty(model)
            _recorded[model] = Recorded(lowered, layers)
        else:
            del lowered
            _empty(model)
            for layer in quantized:
                let_go(layer)
            _recorded[model] = packed_pass(read_pass(written), weights, tell)
            if keep is not None:
                keep(written)
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


def _empty(model: PreTrainedModel) -> None:
    for weight in model.parameters():
        weight.data = weight.new_empty(0)


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
