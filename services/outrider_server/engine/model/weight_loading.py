"""Loading the weights of a model's folder: the library's model of them, quantized where that is asked for.

What quantized layers need is `quantizing.py`'s, and `stored_loading.py`'s where they are read without the
library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig

from ...core.errors import ModelRefused
from ...core.progress import Progress
from .architectures import attention_at_loading
from .checkpoint import Checkpoint, check_amount
from .counted_loading import counted_loading
from .own_code import check_left_over
from .quantizing import NONE, adopt_layers, loading_options, stored_quantization
from .stored_loading import StoredLayers, find_stored_layers, plain_config, stored_class
from .stored_weights import READ_HERE
from .summing import plan_in_order
from .weight_files import Weights

DTYPES: dict[str, torch.dtype | str] = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
NAMED_WEIGHTS = 3
"""So many missing weights are named."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How weights are to be loaded."""

    dtype: str
    """One of DTYPES."""
    device: torch.device
    quantization: str
    """One of options.QUANTIZATIONS."""
    ranks: int


@dataclass(frozen=True, slots=True)
class ReadModel:
    """The library's model with its weights."""

    model: PreTrainedModel
    weights: Weights | None
    """Those of the files, where they are the model's own: neither quantized nor shared out."""
    quantization: str = ""
    """How its weights are quantized; empty where they are not."""
    added_quantization: str = ""
    """The same, where they were quantized while they were loaded."""
    parameter_count: int | None = None
    """Where the modules do not tell it."""


def load_folder(
    checkpoint: Checkpoint,
    config: Any,
    values: Mapping[str, int],
    wanted: Wanted,
    tell: Progress,
) -> ReadModel:
    """The model of a folder, of whose weights each has so many `values`. One caller at a time.

    Raises ModelRefused with the reason.
    """
    folder = checkpoint.source
    stored = stored_quantization(folder, config)
    if not stored:
        check_amount(checkpoint, sum(values.values()))
    dtype = element_type(wanted.dtype, config)
    layers, why_not = _stored_layers(checkpoint, config, stored, wanted.device)
    options = loading_options(
        folder, wanted.quantization, stored, dtype, wanted.device, read_here=layers is not None
    )
    if wanted.ranks > 1:
        options["distributed_config"] = DistributedConfig(
            tp_size=wanted.ranks, tp_plan=plan_in_order(config)
        )
    added = wanted.quantization if wanted.quantization != NONE and not stored else ""
    kind = stored or added
    with counted_loading(_loaded_bytes(values, dtype, layers), tell):
        model = _load_weights(checkpoint, config, wanted.dtype, options, kind, layers, why_not)
    adopt_layers(folder, kind, model)
    module: nn.Module = model  # the library's own `to` and `eval` have no types
    if not options:  # a quantized or shared one was loaded to where it belongs
        module.to(wanted.device)
    module.eval()
    return ReadModel(
        model,
        None if options or layers is not None else checkpoint.open_weights(),
        kind,
        added,
        None if layers is None else sum(values.values()),
    )


def element_type(dtype: str, config: Any) -> torch.dtype:
    """The dtype of what stays unquantized."""
    named = DTYPES[dtype]
    if isinstance(named, torch.dtype):
        return named
    own = getattr(config, "dtype", None)
    return own if isinstance(own, torch.dtype) else torch.float32


def _loaded_bytes(
    values: Mapping[str, int], dtype: torch.dtype, layers: StoredLayers | None
) -> dict[str, int]:
    """Bytes of every tensor that is loaded, of which a plain model has so many values."""
    sizes = {name: count * dtype.itemsize for name, count in values.items()}
    if layers is None:
        return sizes
    replaced = {f"{name}.weight" for name in layers.names}
    kept = {name: size for name, size in sizes.items() if name not in replaced}
    return kept | layers.loaded_bytes()


def _stored_layers(
    checkpoint: Checkpoint, config: Any, stored: str, device: torch.device
) -> tuple[StoredLayers | None, str]:
    """The quantized layers that are read without the library, or one sentence why they are not."""
    if stored not in READ_HERE:
        return None, ""
    try:
        return find_stored_layers(checkpoint, config.quantization_config, device), ""
    except ModelRefused as refused:
        return None, str(refused)


def _load_weights(
    checkpoint: Checkpoint,
    config: Any,
    dtype: str,
    options: dict[str, object],
    kind: str,
    layers: StoredLayers | None,
    why_not: str,
) -> PreTrainedModel:
    """The library's model with the folder's weights, each of which must be there in its shape.

    `why_not` is said where the library cannot load what is not read here.
    """
    folder = checkpoint.source
    loader: Any = AutoModelForCausalLM if layers is None else stored_class(config, layers)
    try:
        loaded = loader.from_pretrained(
            folder,
            config=config if layers is None else plain_config(config),
            dtype=DTYPES[dtype],
            attn_implementation=attention_at_loading(config),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that the report names them
            output_loading_info=True,
            **options,
        )
        model, found = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    except Exception as error:
        what = (
            f"is quantized by {kind}, which cannot be loaded here" if kind else "cannot be loaded"
        )
        also = f"; {why_not}" if why_not else ""
        raise ModelRefused(f"model folder {folder} {what}: {first_line(error)}{also}") from error
    if layers is not None:
        found["unexpected_keys"] = set(found["unexpected_keys"]) - layers.orders
    _check_found(folder, config, found)
    if layers is not None:
        model.__class__ = type(model).__base__  # type: ignore[assignment]  # the library's own
    return model


def _check_found(folder: Path, config: Any, found: dict[str, Any]) -> None:
    """Refuses weights of another shape, missing ones, and those of the folder's own code, by name."""
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise ModelRefused(
            f"model folder {folder} cannot be loaded: {name} has the shape {list(stored)} in the "
            f"weights and {list(wanted)} by config.json"
        )
    missing = sorted(found["missing_keys"])
    if missing:
        named = ", ".join(missing[:NAMED_WEIGHTS])
        more = ", ..." if missing[NAMED_WEIGHTS:] else ""
        raise ModelRefused(
            f"model folder {folder} lacks {len(missing)} of the model's weights ({named}{more})"
        )
    try:
        check_left_over(config, found["unexpected_keys"])
    except ModelRefused as refused:
        raise ModelRefused(f"model folder {folder} cannot be served: {refused}") from refused


def first_line(error: Exception) -> str:
    """What an exception of the library says, in one line."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
