"""Which tensor of the files is which weight of the library's model: each has to have its place and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from torch import nn

from ...core.errors import ModelRefused
from .described import SETTINGS_TENSORS
from .files import GgufFiles
from .layouts import is_turned
from .metadata import Metadata

NAMED = 3
"""So many missing tensors are named."""
SUFFIXES = (".weight", ".bias")
BASE = "transformer."
"""What the tables leave out of some names."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a weight stands in the files."""

    tensor: str
    kind: str
    """The tensor's type, as GGUF calls it."""
    turned: bool = False
    """Whether the model has its outputs as columns."""


def match(model: nn.Module, files: GgufFiles) -> dict[str, Place]:
    """The place of every weight of a model that has no values yet, by its name there. Raises ModelRefused."""
    says = Metadata(files.path, files.metadata)
    names = _file_names(model, says)
    missing = sorted(name for name in names.values() if name not in files.tensors)
    if missing:
        more = ", ..." if missing[NAMED:] else ""
        raise ModelRefused(
            f"{files.path} lacks {len(missing)} of the model's tensors ({', '.join(missing[:NAMED])}{more})"
        )
    left = sorted(files.tensors.keys() - set(names.values()) - SETTINGS_TENSORS)
    if left:
        raise ModelRefused(
            f"{files.path} cannot be served: {len(left)} of its tensors, {left[0]} for one, have no place in "
            f"the library's {type(model).__name__}"
        )
    places = {}
    for weight, parameter in model.named_parameters():
        name = names[weight]
        held = files.tensors[name]
        place = places[weight] = Place(name, held.kind.name, is_turned(says, name))
        stored, wanted = held.shape, tuple(parameter.shape)
        if stored != (wanted[::-1] if place.turned else wanted):
            raise ModelRefused(
                f"{files.path} cannot be loaded: its tensor {name} has the shape {list(stored)}, and "
                f"{list(wanted)} by what it says of the model"
            )
    return places


def _file_names(model: nn.Module, says: Metadata) -> Mapping[str, str]:
    """What the files call each weight, by llama.cpp's own tables."""
    kinds = {name: kind for kind, name in MODEL_ARCH_NAMES.items()}
    table = get_tensor_name_map(kinds[says.architecture], says.number("block_count"))
    names = {}
    for weight, _ in model.named_parameters():
        stems = (weight, weight.removeprefix(BASE))
        found = (table.get_name(stem, try_suffixes=SUFFIXES) for stem in stems)
        name = next(filter(None, found), None)
        if name is None:
            raise ModelRefused(
                f"{says.path} cannot be served: the library's {weight} has no name in GGUF files"
            )
        names[weight] = name
    return names
