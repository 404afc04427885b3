"""The small model that learns: some of the target's layers, and its rows of the tokens that it knows."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..core.errors import ModelRefused
from .draft_vocabulary import DraftVocabulary

TOKEN_SETTINGS = ("bos_token_id", "eos_token_id", "pad_token_id")
QUANTIZED = "quantization_config"


def build_student(
    target: PreTrainedModel, layers: Sequence[int], vocabulary: DraftVocabulary
) -> PreTrainedModel:
    """A model of the target's architecture in float32, on the CPU, with weights copied from it.

    Raises ModelRefused where the target's weights are quantized, or are not laid out as layers.
    """
    config = student_config(target.config, layers, vocabulary)
    student: PreTrainedModel = type(target)._from_config(  # type: ignore[no-untyped-call]
        config, dtype=torch.float32
    )
    state = _renumbered(target, layers)
    head: nn.Module = target.get_output_embeddings()  # type: ignore[no-untyped-call]
    for module in (target.get_input_embeddings(), head):
        for name in _parameters_of(target, module):
            state[name] = _rows(state[name], vocabulary)
    try:
        student.load_state_dict({name: each.float() for name, each in state.items()})
    except RuntimeError as error:
        raise ModelRefused(
            "a draft cannot be made of the target's own layers: its weights are not laid out as those of "
            f"{type(target).__name__} ({str(error).strip().splitlines()[-1].strip()})"
        ) from error
    student.tie_weights()
    student.generation_config = own_generation(target, vocabulary)
    return student


def student_config(config: Any, layers: Sequence[int], vocabulary: DraftVocabulary) -> Any:
    """The target's configuration with fewer layers and the draft's own ids. Raises ModelRefused."""
    if getattr(config, QUANTIZED, None) is not None:
        raise ModelRefused(
            "the target's weights are quantized; make the draft of the model before that"
        )
    made = copy.deepcopy(config)
    count = int(config.num_hidden_layers)
    made.num_hidden_layers = len(layers)
    for name, value in config.to_dict().items():
        if isinstance(value, list) and len(value) == count and name != "architectures":
            setattr(made, name, [value[layer] for layer in layers])
    made.vocab_size = vocabulary.rows
    _take_own_ids(made, config, vocabulary)
    if not vocabulary.is_whole:
        made.draft_vocab = dict(vocabulary.entry())
    return made


def own_generation(target: PreTrainedModel, vocabulary: DraftVocabulary) -> Any:
    """What the target's folder says of generation, in the draft's ids."""
    made = copy.deepcopy(target.generation_config)
    _take_own_ids(made, target.generation_config, vocabulary)
    return made


def _take_own_ids(made: Any, config: Any, vocabulary: DraftVocabulary) -> None:
    own = vocabulary.own_ids(-1).tolist()
    for name in TOKEN_SETTINGS:
        value = getattr(config, name, None)
        given = value if isinstance(value, list) else [value]
        ids = [own[each] for each in given if each is not None and 0 <= each < len(own)]
        known = [each for each in ids if each >= 0]
        setattr(made, name, known if isinstance(value, list) else next(iter(known), None))


def _renumbered(target: PreTrainedModel, layers: Sequence[int]) -> dict[str, torch.Tensor]:
    """The target's weights under the names that they have in a model of these layers alone."""
    prefix = _layers_prefix(target)
    state: dict[str, torch.Tensor] = {}
    for name, tensor in target.state_dict().items():
        if not name.startswith(prefix):
            state[name] = tensor
            continue
        number, _, rest = name.removeprefix(prefix).partition(".")
        for index, layer in enumerate(layers):
            if layer == int(number):
                state[f"{prefix}{index}.{rest}"] = tensor
    return state


def _layers_prefix(model: PreTrainedModel) -> str:
    """What the names of all layers' weights begin with. Raises ModelRefused."""
    count = int(model.config.num_hidden_layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return f"{name}."
    raise ModelRefused(
        f"a {type(model).__name__} has no list of layers that a draft could be made of"
    )


def _parameters_of(model: PreTrainedModel, module: nn.Module) -> list[str]:
    """Names of a layer's own weights in the model."""
    (found,) = (name for name, each in model.named_modules() if each is module)
    return [f"{found}.{name}" for name, _ in module.named_parameters(recurse=False)]


def _rows(weight: torch.Tensor, vocabulary: DraftVocabulary) -> torch.Tensor:
    """The rows of the tokens that the draft knows, and the mean of all others in the place of these."""
    if vocabulary.is_whole:
        return weight
    others = torch.ones(len(weight), dtype=torch.bool)
    others[vocabulary.token_ids] = False
    mean = weight[others].float().mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([weight[vocabulary.token_ids], mean])


def weights_of(model: PreTrainedModel, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
    """What a checkpoint holds of the model: each storage once, in a dtype."""
    seen: set[int] = set()
    found = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            found[name] = tensor.detach().to("cpu", dtype).contiguous()
    return found
