"""GPTQ and AWQ checkpoints without the packages that transformers wants for them.

Which layers are quantized is what the weight files say. The library builds its model with a layer for each of
them that has the checkpoint's own tensors, and fills these as it does all others; it hears nothing of the
quantization.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ...core.errors import ModelRefused
from .causal_class import causal_class
from .checkpoint import Checkpoint
from .stored_weights import StoredFormat, StoredLinear, stored_format

DTYPES = {
    "I32": torch.int32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
}
"""Of a checkpoint's quantized layers, as safetensors names them."""
NUMBERS = ".qweight"
LOADED = ("qweight", "qzeros", "scales")
TENSORS = (*LOADED, "g_idx")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a file."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None

    @property
    def nbytes(self) -> int:
        """In memory."""
        itemsize = self.dtype.itemsize if self.dtype else 0
        return int(torch.Size(self.shape).numel()) * itemsize


@dataclass(frozen=True, slots=True)
class StoredLayers:
    """The quantized layers of a checkpoint, which can be read here."""

    format: StoredFormat
    tensors: Mapping[str, StoredTensor]
    """All of the files, by name."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the layers."""
        held = (name for name in self.tensors if name.endswith(NUMBERS))
        return tuple(name.removesuffix(NUMBERS) for name in held)

    @property
    def orders(self) -> frozenset[str]:
        """Tensors that say which group an input is of: checked, and not loaded."""
        return frozenset(f"{layer}.g_idx" for layer in self.names)

    def loaded_bytes(self) -> dict[str, int]:
        """Bytes of every tensor of theirs."""
        return {
            f"{layer}.{name}": self.tensors[f"{layer}.{name}"].nbytes
            for layer in self.names
            for name in LOADED
        }


def find_stored_layers(
    checkpoint: Checkpoint, settings: Mapping[str, Any], device: torch.device
) -> StoredLayers:
    """Reads headers and the order of inputs. Raises ModelRefused for what is not read here."""
    if device.type != "cpu":
        raise ModelRefused(f"outrider itself reads it on CPUs only, not on {device.type}")
    found = StoredLayers(stored_format(settings), _tensors(checkpoint))
    if not found.names:
        raise ModelRefused("its weight files hold no tensor qweight")
    for layer in found.names:
        _check_layer(found, layer)
    for name in found.tensors:
        layer, _, last = name.rpartition(".")
        if last in TENSORS and f"{layer}{NUMBERS}" not in found.tensors:
            raise ModelRefused(f"outrider itself cannot tell what {name} scales")
    _check_order(checkpoint, found)
    return found


def _tensors(checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    found = {}
    for path in checkpoint.weights:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                found[name] = StoredTensor(tuple(part.get_shape()), DTYPES.get(part.get_dtype()))
    return found


def _check_layer(found: StoredLayers, layer: str) -> None:
    """The shapes of a layer's tensors must be those of the format."""
    size = found.tensors[f"{layer}{NUMBERS}"].shape
    if len(size) != 2:
        raise ModelRefused(f"{layer}{NUMBERS} is no matrix")
    for name, shape in found.format.sizes(*found.format.layer_size(size)).items():
        held = found.tensors.get(f"{layer}.{name}")
        if held is None:
            raise ModelRefused(f"its weight files lack {layer}.{name}")
        if held.shape != shape:
            raise ModelRefused(
                f"{layer}.{name} has the shape {list(held.shape)}, and {list(shape)} by "
                "quantization_config"
            )
        whole = name != "scales"
        if held.dtype is None or (held.dtype == torch.int32) != whole:
            kind = "int32" if whole else "floating-point numbers"
            raise ModelRefused(f"{layer}.{name} does not hold {kind}")


def _check_order(checkpoint: Checkpoint, found: StoredLayers) -> None:
    """Inputs of a group must follow each other."""
    for path in checkpoint.weights:
        with safe_open(path, framework="pt") as file:
            for name in found.orders & set(file.keys()):
                _check_layer_order(found, name.removesuffix(".g_idx"), file.get_tensor(name))
    missing = found.orders - found.tensors.keys()
    if found.format.reordered and missing:
        raise ModelRefused(
            f"its quantization_config says desc_act, and its weight files lack {min(missing)}"
        )


def _check_layer_order(found: StoredLayers, layer: str, groups: torch.Tensor) -> None:
    _, inputs = found.format.layer_size(found.tensors[f"{layer}{NUMBERS}"].shape)
    if groups.shape != (inputs,):
        raise ModelRefused(
            f"{layer}.g_idx has the shape {list(groups.shape)}, and {[inputs]} by the layer's inputs"
        )
    if not torch.equal(groups.long(), torch.arange(inputs) // (found.format.group or inputs)):
        raise ModelRefused(
            f"the inputs of {layer} are out of order (desc_act, act-order), which outrider itself "
            "does not read"
        )


def plain_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration without its quantization."""
    plain = deepcopy(config)
    del plain.quantization_config
    return plain


def stored_class(config: PreTrainedConfig, found: StoredLayers) -> type[PreTrainedModel]:
    """The library's class of a model, built with the checkpoint's quantized layers."""
    library_class = causal_class(config)

    def build(self: Any, *given: Any, **named: Any) -> None:
        library_class.__init__(self, *given, **named)
        _place_layers(self, found)

    made = type(library_class.__name__, (library_class,), {"__init__": build})
    return cast("type[PreTrainedModel]", made)


def _place_layers(model: PreTrainedModel, found: StoredLayers) -> None:
    """Puts layers without values in the place of the model's own. Raises ModelRefused where one has none."""
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    modules = dict(model.named_modules())
    for name in found.names:
        linear = modules.get(name)
        size = found.format.layer_size(found.tensors[f"{name}{NUMBERS}"].shape)
        if type(linear) is not nn.Linear or size != (linear.out_features, linear.in_features):
            raise ModelRefused(f"{name} is quantized and no linear layer of that size in the model")
        if linear is head:
            raise ModelRefused(f"its output layer {name} is quantized, which is not served")
        scales = found.tensors[f"{name}.scales"].dtype
        assert scales is not None, "checked"
        layer = StoredLinear(
            found.format,
            linear,
            scales,
            has_bias=f"{name}.bias" in found.tensors or linear.bias is not None,
        )
        model.set_submodule(name, layer)
