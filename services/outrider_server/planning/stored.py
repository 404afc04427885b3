"""Layers of GPTQ and AWQ checkpoints that are read without the library: their bytes, as kept and packed."""

from __future__ import annotations

import torch

from ..core.errors import ModelRefused
from ..engine.model.checkpoint import open_checkpoint
from ..engine.model.stored_loading import LOADED, StoredLayers, find_stored_layers
from ..engine.model.stored_weights import READ_HERE
from .config_file import ConfigFile
from .types import StoredLayer
from .weights import stored_kernel_bytes


def stored_layers(file: ConfigFile) -> dict[str, StoredLayer]:
    """By name. Nothing for what is not read so, and without weight files."""
    if file.quantized_by not in READ_HERE:
        return {}
    settings = file.config.quantization_config
    try:
        found = find_stored_layers(open_checkpoint(file.folder), settings, torch.device("cpu"))
    except ModelRefused:
        return {}
    symmetric = settings.get("sym") is True
    return {name: _layer(found, name, symmetric) for name in found.names}


def _layer(found: StoredLayers, name: str, symmetric: bool) -> StoredLayer:
    form = found.format
    outputs, inputs = form.layer_size(found.tensors[f"{name}.qweight"].shape)
    return StoredLayer(
        sum(found.tensors[f"{name}.{part}"].nbytes for part in LOADED),
        stored_kernel_bytes(outputs, inputs, form.bits, form.group, symmetric),
    )
