"""Loading a model folder: the library's model of it, quantized where that is asked for.

What its files must be is `checkpoint.py`'s; what quantized layers need is `quantizing.py`'s, and
`stored_loading.py`'s where they are read without the library.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.distributed.configuration_utils import DistributedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as library_logging

from ...core.description import TokenizerFiles
from ...core.errors import ModelRefused
from ...core.progress import Progress, silent
from ..lengths import furthest_context, length_rule, longest_context
from ..ranks.sharing import check_shares, key_heads
from .architectures import attention_at_loading, cache_shape, check_architecture
from .checkpoint import Checkpoint, check_amount, fingerprint_model, open_checkpoint, read_json
from .counted_loading import counted_loading
from .facts import CacheSizes, ModelFacts
from .generation_defaults import read_generation_defaults
from .hub import local_folder
from .own_code import check_left_over
from .probing import probe_step
from .quantizing import NONE, adopt_layers, loading_options, stored_quantization
from .stored_loading import StoredLayers, find_stored_layers, plain_config, stored_class
from .stored_weights import READ_HERE
from .summing import plan_in_order
from .tokenizer_files import read_tokenizer
from .vocabulary import Vocabulary, read_vocabulary

DTYPES: dict[str, torch.dtype | str] = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
NAMED_WEIGHTS = 3
"""So many missing weights are named."""
_loading = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel(ModelFacts):
    """A model that the library runs, until the engine has recorded it."""

    model: PreTrainedModel
    weight_files: tuple[Path, ...] = ()
    """The checkpoint's, where its weights are the model's own: neither quantized nor shared out."""


def check_model(folder: Path, ranks: int) -> None:
    """Raises ModelRefused where so many ranks cannot serve a local folder's model. Reads no weights."""
    _check_layers(folder, _read_config(open_checkpoint(folder).folder), ranks)


def load_model(
    folder: Path,
    dtype: str,
    device: torch.device,
    quantization: str = NONE,
    ranks: int = 1,
    tell: Progress = silent,
) -> LoadedModel:
    """Loads a causal language model from a local folder, or by its name on a hub.

    `quantization` is one of options.QUANTIZATIONS. Of several `ranks`, which have joined a process group,
    each loads its share by the library's plan. Raises ModelRefused with the reason.
    """
    checkpoint = open_checkpoint(local_folder(folder))
    log_errors_only: Callable[[], None] = library_logging.set_verbosity_error
    hide_progress: Callable[[], None] = library_logging.disable_progress_bar
    log_errors_only()
    hide_progress()
    config = _read_config(checkpoint.folder)
    values = _check_layers(checkpoint.folder, config, ranks)
    tokenizer = read_tokenizer(checkpoint.folder)
    vocabulary = _read_vocabulary(checkpoint.folder, tokenizer, config)
    stored = stored_quantization(checkpoint.folder, config)
    if not stored:
        check_amount(checkpoint, sum(values.values()))
    element_type = _element_type(dtype, config)
    layers, why_not = _stored_layers(checkpoint, config, stored, device)
    options = loading_options(
        checkpoint.folder, quantization, stored, element_type, device, read_here=layers is not None
    )
    if ranks > 1:
        options["distributed_config"] = DistributedConfig(
            tp_size=ranks, tp_plan=plan_in_order(config)
        )
    kind = stored or (quantization if quantization != NONE else "")
    with counted_loading(_loaded_bytes(values, element_type, layers), tell):
        model = _load_weights(checkpoint, config, dtype, options, kind, layers, why_not)
    adopt_layers(checkpoint.folder, kind, model)
    module: nn.Module = model  # the library's own `to` and `eval` have no types
    if not options:  # a quantized or shared one was loaded to where it belongs
        module.to(device)
    module.eval()
    counted = {} if layers is None else {"parameter_count": sum(values.values())}
    return LoadedModel(
        model=model,
        name=folder.resolve().name,
        architecture=(config.architectures or [type(model).__name__])[0],
        model_fingerprint=fingerprint_model(
            checkpoint, "" if stored else kind, vocabulary, _other_dtype(dtype, config)
        ),
        vocabulary=vocabulary,
        end_token_ids=_end_token_ids(model),
        max_positions=longest_context(config),
        most_positions=furthest_context(config),
        tokenizer=tokenizer,
        generation_defaults=read_generation_defaults(checkpoint.folder),
        quantization=kind,
        ranks=ranks,
        weight_files=() if options or layers is not None else checkpoint.weights,
        **(facts_of(model, ranks) | counted),
    )


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


def facts_of(model: PreTrainedModel, ranks: int = 1) -> dict[str, Any]:
    """What `ModelFacts` has to say that the model itself tells, by their names."""
    heads, (_, head_dim) = key_heads(model.config, ranks), cache_shape(model.config)
    return {
        "dtype": model.dtype,
        "device": model.device,
        "cache_sizes": CacheSizes(int(model.config.num_hidden_layers), heads, head_dim),
        "length_rule": length_rule(model.config),
        "parameter_count": model.num_parameters(),
    }


def _read_config(folder: Path) -> Any:
    """The library's configuration of the folder's architecture."""
    content = read_json(folder / "config.json")
    kind = content.get("model_type")
    if kind not in CONFIG_MAPPING:
        own = " and which would need code of its own (auto_map)" if "auto_map" in content else ""
        raise ModelRefused(
            f"model folder {folder} cannot be loaded: its model_type is {kind}, "
            f"which transformers does not know{own}; use a model that the library implements"
        )
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelRefused(
            f"model folder {folder} cannot be loaded: {_first_line(error)}"
        ) from error
    return config


def _read_vocabulary(folder: Path, tokenizer: TokenizerFiles, config: Any) -> Vocabulary:
    try:
        return read_vocabulary(tokenizer.tokenizer_json, int(config.vocab_size))
    except ModelRefused as refused:
        raise ModelRefused(f"model folder {folder} cannot be served: {refused}") from refused


def _other_dtype(dtype: str, config: Any) -> str:
    """The dtype asked for where it is not the checkpoint's own."""
    wanted, own = _element_type(dtype, config), _element_type("auto", config)
    return "" if wanted == own else str(wanted)


def _element_type(dtype: str, config: Any) -> torch.dtype:
    """The dtype of what stays unquantized."""
    named = DTYPES[dtype]
    if isinstance(named, torch.dtype):
        return named
    own = getattr(config, "dtype", None)
    return own if isinstance(own, torch.dtype) else torch.float32


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
    folder = checkpoint.folder
    loader: Any = AutoModelForCausalLM if layers is None else stored_class(config, layers)
    try:
        # The library switches the default device while it loads, for all threads of the process.
        with _loading:
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
        raise ModelRefused(f"model folder {folder} {what}: {_first_line(error)}{also}") from error
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


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _check_layers(folder: Path, config: Any, ranks: int) -> dict[str, int]:
    """Refuses what the slot cache or so many ranks cannot serve, before weights are read.

    Returns how many values each weight has.
    """
    try:
        check_architecture(config)
        check_shares(config, ranks)
        with _loading:  # the library switches the default dtype while it builds a model
            return probe_step(config)
    except ModelRefused as refused:
        raise ModelRefused(f"model folder {folder} cannot be served: {refused}") from refused


def _end_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    end = model.generation_config.eos_token_id if model.generation_config else None
    end = model.config.eos_token_id if end is None else end
    if end is None:
        return ()
    return tuple(end) if isinstance(end, list) else (int(end),)
