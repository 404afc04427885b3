"""Which weights of a model are quantized, and what weights take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..core.errors import ModelRefused


def quantized_layers(model: PreTrainedModel) -> dict[str, nn.Linear | Conv1D]:
    """The linear layers by name, without the output head, which bitsandbytes leaves alone too.

    Raises ModelRefused for a model that holds none, that is quantized already, or whose weights are no
    finite numbers.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        raise ModelRefused("the model is quantized already; give the unquantized one")
    head = output_head(model)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and name not in head
    }
    if not layers:
        raise ModelRefused("the model has no linear layers to quantize")
    for name, layer in layers.items():
        if not bool(torch.isfinite(layer.weight).all()):
            raise ModelRefused(f"the weights of {name} are no finite numbers")
    return layers


def output_head(model: PreTrainedModel) -> tuple[str, ...]:
    """The name of the module that gives the logits; none where the model has no such module."""
    head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return tuple(name for name, module in model.named_modules() if module is head)


def output_rows(layer: nn.Module) -> torch.Tensor:
    """The layer's weight as [outputs, inputs]: a view that can be written through."""
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach().T if isinstance(layer, Conv1D) else weight.detach()


def model_bytes(model: PreTrainedModel) -> int:
    """Bytes of all that a checkpoint of the model holds, each storage once; without file headers."""
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in model.state_dict().values()
        if isinstance(tensor, torch.Tensor)
    }
    return sum(storages.values())


@contextmanager
def restored_weights(layers: Mapping[str, nn.Module]) -> Iterator[None]:
    """Lets the weights be overwritten inside; they are as before afterwards."""
    saved = {name: output_rows(layer).clone() for name, layer in layers.items()}
    try:
        yield
    finally:
        for name, layer in layers.items():
            output_rows(layer).copy_(saved[name])
