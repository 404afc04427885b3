"""The library's model of a GGUF file: its weights are read as the library asks for them.

On a CPU linear layers of some types stay as the file has them. All other weights are widened.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from ...core.errors import ModelRefused
from ...core.progress import Progress
from ..model.architectures import attention_at_loading
from ..model.causal_class import causal_class
from ..model.counted_loading import counted_loading
from ..model.formats import not_quantized_anew
from ..model.quantizing import NONE
from ..model.weight_loading import ReadModel, Wanted, element_type, first_line
from .checkpoint import GgufCheckpoint
from .integers import SIZES, GgufLinear
from .matching import Place, match
from .weights import GgufWeights

WEIGHT = ".weight"


class _Unread:
    """A tensor that is read when the library indexes it, as it does those of safetensors."""

    def __init__(self, read: Callable[[], torch.Tensor]) -> None:
        self._read = read

    def __getitem__(self, part: Any) -> torch.Tensor:
        return self._read()[part]


def load_gguf(
    checkpoint: GgufCheckpoint,
    config: Any,
    values: Mapping[str, int],
    wanted: Wanted,
    tell: Progress,
) -> ReadModel:
    """The model of GGUF files, of whose weights each has so many `values`. One caller at a time.

    Raises ModelRefused with the reason.
    """
    _check_wanted(checkpoint, wanted)
    with torch.device("meta"):
        empty = causal_class(config)(deepcopy(config))
    places = match(empty, checkpoint.files)
    kept = kept_layers(empty, places) if wanted.device.type == "cpu" else {}
    weights, dtype = checkpoint.open_weights(), element_type(wanted.dtype, config)
    build: Callable[..., Any] = _class_with(config, kept).from_pretrained
    sizes = {name: count * dtype.itemsize for name, count in values.items()}
    try:
        with counted_loading(sizes, tell):
            model = build(
                None,
                config=config,
                state_dict=_unread(weights, places, kept),
                dtype=dtype,
                attn_implementation=attention_at_loading(config),
            )
    except Exception as error:
        raise ModelRefused(f"{checkpoint.source} cannot be loaded: {first_line(error)}") from error
    model.__class__ = type(model).__base__ if kept else type(model)  # the library's own
    module: nn.Module = model  # the library's own `to` and `eval` have no types
    module.to(wanted.device).eval()
    return ReadModel(model, weights, _kind(kept), parameter_count=sum(values.values()))


def kept_layers(empty: nn.Module, places: Mapping[str, Place]) -> dict[str, Place]:
    """The linear layers that may stay as the files have them, by name, of a model without values.

    An output layer that is the embedding too has no place of its own, and is widened.
    """
    linear = (name for name, layer in empty.named_modules() if type(layer) is nn.Linear)
    found = {name: places.get(f"{name}{WEIGHT}") for name in linear}
    return {name: place for name, place in found.items() if place and place.kind in SIZES}


def _check_wanted(checkpoint: GgufCheckpoint, wanted: Wanted) -> None:
    if wanted.quantization != NONE:
        raise ModelRefused(not_quantized_anew(checkpoint.source, ""))


def _class_with(config: Any, kept: Mapping[str, Place]) -> type[PreTrainedModel]:
    """The library's class of a model, built with layers for what stays as it is."""
    library_class = causal_class(config)
    if not kept:
        return library_class

    def build(self: Any, *given: Any, **named: Any) -> None:
        library_class.__init__(self, *given, **named)
        modules = dict(self.named_modules())
        for name, place in kept.items():
            self.set_submodule(name, GgufLinear(modules[name], place.kind, place.tensor))

    made = type(library_class.__name__, (library_class,), {"__init__": build})
    return cast("type[PreTrainedModel]", made)


def _unread(
    weights: GgufWeights, places: Mapping[str, Place], kept: Mapping[str, Place]
) -> dict[str, _Unread]:
    found = {}
    for name, place in places.items():
        layer = name.removesuffix(WEIGHT)
        if name.endswith(WEIGHT) and layer in kept:
            found[f"{layer}.blocks"] = _Unread(partial(weights.blocks, place.tensor))
        else:
            found[name] = _Unread(partial(_widened, weights, place))
    return found


def _widened(weights: GgufWeights, place: Place) -> torch.Tensor:
    tensor = weights.tensor(place.tensor)
    return tensor.t() if place.turned else tensor


def _kind(kept: Mapping[str, Place]) -> str:
    """The type of most of the layers that stay as they are."""
    kinds = Counter(place.kind for place in kept.values())
    return kinds.most_common(1)[0][0].lower() if kinds else ""
