"""Every method on one model: what the weights become, and what the model then says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel

from .comparison import WeightComparison
from .layers import model_bytes, output_head, output_rows, restored_weights
from .library import library_weight, load_quantized
from .quantizers import Quantizer, Scope, quantize_absmax, quantize_zero_point
from .reading import Reading, read_windows
from .settings import OWN_METHODS

OWN: dict[str, tuple[Quantizer, Scope]] = {
    "absmax": (quantize_absmax, Scope.TENSOR),
    "zero-point": (quantize_zero_point, Scope.TENSOR),
    "absmax-row": (quantize_absmax, Scope.ROW),
    "zero-point-row": (quantize_zero_point, Scope.ROW),
}
assert tuple(OWN) == OWN_METHODS


@dataclass(frozen=True, slots=True)
class Subject:
    """The unquantized model, and what it is measured on."""

    folder: Path
    model: PreTrainedModel
    layers: Mapping[str, nn.Module]
    windows: Sequence[torch.Tensor]
    limit: float
    """The largest magnitude of any weight of the layers."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One method on the subject."""

    size_bytes: int
    """All weights: the quantized layers, and the rest as it was."""
    comparison: WeightComparison
    reading: Reading


def run_method(name: str, subject: Subject) -> Outcome:
    """Quantizes the subject's layers, reads the text with them, and leaves the subject as it was."""
    return _run_own(name, subject) if name in OWN else _run_library(name, subject)


def _run_own(name: str, subject: Subject) -> Outcome:
    """The layers compute with dequantized weights, in the model's own dtype."""
    quantize, scope = OWN[name]
    comparison = WeightComparison(subject.limit)
    size_bytes = model_bytes(subject.model)
    with restored_weights(subject.layers):
        for layer_name, layer in subject.layers.items():
            weight = output_rows(layer)
            quantized = quantize(weight, scope)
            size_bytes += quantized.size_bytes - weight.nbytes
            numbers = quantized.dequantize(weight.dtype)
            comparison.add(layer_name, weight, numbers)
            weight.copy_(numbers)
        return Outcome(size_bytes, comparison, read_windows(subject.model, subject.windows))


def _run_library(name: str, subject: Subject) -> Outcome:
    """The layers are those of bitsandbytes, with its own arithmetic."""
    dtype, device = subject.model.dtype, subject.model.device
    model = load_quantized(subject.folder, name, dtype, device, output_head(subject.model))
    comparison = WeightComparison(subject.limit)
    for layer_name, layer in subject.layers.items():
        numbers = library_weight(model.get_submodule(layer_name))
        comparison.add(layer_name, output_rows(layer), numbers)
    return Outcome(model_bytes(model), comparison, read_windows(model, subject.windows))
