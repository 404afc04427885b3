"""Layers of GPTQ, AWQ and GGUF that are read without the library: their bytes, as kept and packed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..core.errors import ModelRefused
from ..engine.gguf.integers import GROUP
from ..engine.model.formats import is_gguf
from ..engine.model.opening import open_checkpoint
from ..engine.model.stored_loading import LOADED, StoredLayers, find_stored_layers
from ..engine.model.stored_weights import READ_HERE
from .config_file import ConfigFile
from .types import StoredLayer
from .weights import stored_kernel_bytes


def stored_layers(file: ConfigFile, empty: nn.Module, device: str) -> dict[str, StoredLayer]:
    """By name, of a model without values. Nothing for what is not read so, and without weight files."""
    if is_gguf(file.path):
        return _of_gguf(file.path, empty) if device == "cpu" else {}
    if file.quantized_by not in READ_HERE:
        return {}
    settings = file.config.quantization_config
    try:
        found = find_stored_layers(open_checkpoint(file.folder), settings, torch.device("cpu"))
    except ModelRefused:
        return {}
    symmetric = settings.get("sym") is True
    return {name: _layer(found, name, symmetric) for name in found.names}


def _of_gguf(path: Path, empty: nn.Module) -> dict[str, StoredLayer]:
    from ..engine.gguf.checkpoint import (
        open_gguf,  # these import a library that folders do not need
    )
    from ..engine.gguf.loading import kept_layers
    from ..engine.gguf.matching import match

    files = open_gguf(path).files
    layers = {}
    for name, place in kept_layers(empty, match(empty, files)).items():
        tensor = files.tensors[place.tensor]
        bits, symmetric = 8 if place.kind == "Q8_0" else 4, place.kind != "Q4_1"
        outputs, inputs = tensor.shape
        packed = stored_kernel_bytes(outputs, inputs, bits, GROUP, symmetric)
        layers[name] = StoredLayer(tensor.nbytes, packed)
    return layers


def _layer(found: StoredLayers, name: str, symmetric: bool) -> StoredLayer:
    form = found.format
    outputs, inputs = form.layer_size(found.tensors[f"{name}.qweight"].shape)
    return StoredLayer(
        sum(found.tensors[f"{name}.{part}"].nbytes for part in LOADED),
        stored_kernel_bytes(outputs, inputs, form.bits, form.group, symmetric),
    )
