"""Counts a model by building it without memory: the library's own class on torch's meta device.

So every architecture of the library is counted exactly, whatever its configuration leaves to defaults. What
the layers write into the cache is found the same way: one forward pass over tensors without values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import prod
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, LinearAttentionCacheLayerMixin
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from ..core.errors import ModelRefused
from ..engine.cache_argument import cache_argument
from ..engine.lengths import furthest_context, longest_context
from ..engine.model.architectures import check_architecture
from ..engine.model.formats import is_gguf
from .config_file import ConfigFile, first_line
from .stored import stored_layers
from .types import CachedLayer, LinearLayer, ModelSizes, StoredLayer, WeightTensor

PROBE_TOKENS = 2
WEIGHT = ".weight"
_Linear = (nn.Linear, Conv1D)


def count_model(file: ConfigFile, device: str = "cpu") -> ModelSizes:
    """The sizes of the model that a configuration describes, on a type of device.

    Raises ModelRefused with the reason.
    """
    model = _build(file)
    stored = stored_layers(file, model, device)
    config = model.config.get_text_config()
    keys, values = _trace(file, model)
    heads = int(config.num_attention_heads)
    return ModelSizes(
        name=file.name,
        architecture=type(model).__name__,
        dtype=str(model.config.dtype or torch.float32).removeprefix("torch."),
        tensors=_tensors(model, stored),
        linears=tuple(_matrices(model, stored).values()),
        buffer_bytes=sum(buffer.nbytes for buffer in model.buffers()),
        layers=tuple(
            CachedLayer(key.shape[1] * key.shape[-1], value.shape[1] * value.shape[-1])
            for key, value in zip(keys, values, strict=True)
        ),
        hidden=int(config.hidden_size),
        intermediate=_intermediate(model),
        vocabulary=int(config.vocab_size),
        target_ids=file.target_ids,
        query_groups=max(1, heads // keys[0].shape[1]),
        head_dim=int(keys[0].shape[-1]),
        max_positions=longest_context(config),
        most_positions=furthest_context(config),
        checkpoint_bytes=0 if stored else _checkpoint_bytes(file),
        quantized_by=file.quantized_by,
        notes=_notes(file, read_here=bool(stored)),
    )


def _build(file: ConfigFile) -> PreTrainedModel:
    try:
        with torch.device("meta"):
            model = file.model_class(file.config)
            module: nn.Module = model  # the library's own `eval` has no types
            module.eval()
            return model
    except Exception as error:
        raise ModelRefused(f"{file.path} describes no model: {first_line(error)}") from error


def _trace(
    file: ConfigFile, model: PreTrainedModel
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Keys and values of every layer after one forward pass: [1, K, tokens, D] without values."""
    # Which experts a token goes to is not known here; this way of computing them does not ask.
    model.set_experts_implementation("batched_mm")
    cache = DynamicCache(config=model.config)
    refused = ModelRefused(
        f"{file.path} is a {type(model).__name__}, whose layers do not all keep keys and values; "
        "the slot cache cannot serve it"
    )
    try:
        with torch.no_grad(), torch.device("meta"):
            tokens = torch.zeros((1, PROBE_TOKENS), dtype=torch.int64)
            model(input_ids=tokens, use_cache=True, **{cache_argument(model): cache})
    except Exception as error:
        raise refused from error
    keys = [getattr(layer, "keys", None) for layer in cache.layers]
    values = [getattr(layer, "values", None) for layer in cache.layers]
    states = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in cache.layers)
    if states or not keys or any(tensor is None for tensor in (*keys, *values)):
        raise refused
    return cast("list[torch.Tensor]", keys), cast("list[torch.Tensor]", values)


def _tensors(model: PreTrainedModel, stored: Mapping[str, StoredLayer]) -> tuple[WeightTensor, ...]:
    """Every parameter once, under the first of its names."""
    outputs = _quantizable(model)
    output_layer = _output_layer(model)
    read_whole = id(output_layer.weight) if output_layer is not None else None
    embeddings = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
    }
    biases = {id(module.bias) for module in model.modules() if isinstance(module, _Linear)}
    return tuple(
        WeightTensor(
            name=name,
            count=parameter.numel(),
            outputs=outputs.get(id(parameter), 0),
            looked_up=id(parameter) in embeddings and id(parameter) != read_whole,
            float32_in=_float32_in(model, name),
            constant=parameter.dim() < 2 and id(parameter) not in biases,
            stored=stored.get(name.removesuffix(WEIGHT)) if name.endswith(WEIGHT) else None,
        )
        for name, parameter in model.named_parameters()
    )


def _quantizable(model: PreTrainedModel) -> dict[int, int]:
    """Outputs of every matrix that the library hands to bitsandbytes, by the parameter's id."""
    kept = cast("list[str] | None", model._keep_in_fp32_modules)  # a set, and only iterated
    skipped: list[str] = HfQuantizer.get_modules_to_not_convert(model, None, kept)
    found = {}
    for name, module in model.named_modules():
        plain = type(module) is nn.Linear or isinstance(module, Conv1D)
        if plain and should_convert_module(name, skipped):
            found[id(module.weight)] = _shape(module)[0]
    return found


def _matrices(model: PreTrainedModel, stored: Mapping[str, StoredLayer]) -> dict[int, LinearLayer]:
    """Every matrix that is no embedding alone, whatever class of layer holds it, by the parameter's id."""
    quantizable = _quantizable(model)
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            continue
        biased = getattr(module, "bias", None) is not None
        for matrix in module.parameters(recurse=False):
            if matrix.dim() < 2:
                continue
            *count, rows, columns = matrix.shape
            if isinstance(module, Conv1D):
                rows, columns = columns, rows
            found[id(matrix)] = LinearLayer(
                rows, columns, biased, id(matrix) in quantizable, prod(count), stored.get(name)
            )
    return found


def _output_layer(model: PreTrainedModel) -> nn.Module | None:
    layer: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return layer


def _shape(module: nn.Linear | Conv1D) -> tuple[int, int]:
    """(outputs, inputs) of a linear layer of either kind."""
    rows, columns = module.weight.shape
    return (columns, rows) if isinstance(module, Conv1D) else (rows, columns)


def _intermediate(model: PreTrainedModel) -> int:
    """Width of the widest layer but the output layer, or what the configuration says."""
    output_layer = _output_layer(model)
    read_whole = None if output_layer is None else id(output_layer.weight)
    widths = [
        layer.outputs for matrix, layer in _matrices(model, {}).items() if matrix != read_whole
    ]
    config = model.config.get_text_config()
    return max([*widths, int(getattr(config, "intermediate_size", None) or 0)])


def _float32_in(model: PreTrainedModel, name: str) -> tuple[str, ...]:
    """Dtypes in which the library would keep a parameter in float32 all the same."""

    def listed(patterns: Iterable[str] | None) -> bool:
        return any(
            re.search(rf"(?:^|\.){re.escape(pattern)}(?:\.|$)", name) for pattern in patterns or ()
        )

    if listed(model._keep_in_fp32_modules_strict):
        return ("bfloat16", "float16")
    return ("float16",) if listed(model._keep_in_fp32_modules) else ()


def _checkpoint_bytes(file: ConfigFile) -> int:
    if not file.quantized_by:
        return 0
    return sum(path.stat().st_size for path in file.folder.glob("*.safetensors"))


def _notes(file: ConfigFile, *, read_here: bool) -> tuple[str, ...]:
    config = file.config.get_text_config()
    notes = []
    if file.quantized_by:
        how = "their files' size" if _checkpoint_bytes(file) else "an unquantized model's"
        how = "counted layer by layer" if read_here else how
        notes.append(f"quantized by {file.quantized_by} already: the weights are {how}")
    if is_gguf(file.path) and read_here:
        notes.append(
            "layers of Q8_0, Q4_0 and Q4_1 stay as the file has them, all others are widened"
        )
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    longest = getattr(config, "max_position_embeddings", None) or window
    if kinds - {"full_attention"} or (window and window < longest and not kinds):
        notes.append("attends to a window: planned as full attention, whose keys the cache keeps")
    try:
        check_architecture(file.config)
    except ModelRefused as refused:
        notes.append(f"a service refuses it: {refused}")
    if file.target_ids:
        notes.append(
            f"knows {int(config.vocab_size) - 1:,} of its target's {file.target_ids:,} token ids, and can "
            "only draft"
        )
    if file.config.dtype is None:
        notes.append("the configuration names no dtype: float32 is taken for auto")
    return tuple(notes)
