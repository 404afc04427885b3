"""Loading a model: the library's model of a checkpoint, and what there is to know of it.

What its files must be is the checkpoint's; how its weights are read is `weight_loading.py`'s, or that of
`gguf/loading.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as library_logging

from ...core.description import TokenizerFiles
from ...core.errors import ModelRefused
from ...core.progress import Progress, silent
from ..lengths import furthest_context, length_rule, longest_context
from ..ranks.sharing import check_shares, key_heads
from .architectures import cache_shape, check_architecture
from .checkpoint import Checkpoint, fingerprint_model
from .facts import CacheSizes, ModelFacts
from .formats import described, is_gguf, model_name
from .hub import local_folder
from .opening import open_checkpoint
from .probing import probe_step
from .quantizing import NONE
from .vocabulary import Vocabulary, read_vocabulary
from .weight_files import Weights
from .weight_loading import ReadModel, Wanted, element_type, first_line, load_folder

_loading = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel(ModelFacts):
    """A model that the library runs, until the engine has recorded it."""

    model: PreTrainedModel
    weights: Weights | None = None
    """The checkpoint's, where they are the model's own: neither quantized nor shared out."""


def check_model(folder: Path, ranks: int) -> None:
    """Raises ModelRefused where so many ranks cannot serve a local folder's model. Reads no weights."""
    _check_layers(folder, _read_config(open_checkpoint(folder)), ranks)


def load_model(
    folder: Path,
    dtype: str,
    device: torch.device,
    quantization: str = NONE,
    ranks: int = 1,
    tell: Progress = silent,
) -> LoadedModel:
    """Loads a causal language model from a local folder or GGUF file, or by its name on a hub.

    `quantization` is one of options.QUANTIZATIONS. Of several `ranks`, which have joined a process group,
    each loads its share by the library's plan. Raises ModelRefused with the reason.
    """
    checkpoint = open_checkpoint(local_folder(folder))
    log_errors_only: Callable[[], None] = library_logging.set_verbosity_error
    hide_progress: Callable[[], None] = library_logging.disable_progress_bar
    log_errors_only()
    hide_progress()
    config = _read_config(checkpoint)
    values = _check_layers(checkpoint.source, config, ranks)
    tokenizer = checkpoint.tokenizer()
    vocabulary = _read_vocabulary(checkpoint, tokenizer, config)
    wanted = Wanted(dtype, device, quantization, ranks)
    with _loading:  # the library switches the default device while it loads, for the whole process
        read = _load_weights(checkpoint, config, values, wanted, tell)
    model, count = read.model, read.parameter_count
    return LoadedModel(
        model=model,
        name=model_name(folder),
        architecture=(config.architectures or [type(model).__name__])[0],
        model_fingerprint=fingerprint_model(
            checkpoint, read.added_quantization, vocabulary, _other_dtype(dtype, config)
        ),
        vocabulary=vocabulary,
        end_token_ids=_end_token_ids(model, vocabulary),
        max_positions=longest_context(config),
        most_positions=furthest_context(config),
        tokenizer=tokenizer,
        generation_defaults=checkpoint.generation_defaults(),
        quantization=read.quantization,
        ranks=ranks,
        weights=read.weights,
        **(facts_of(model, ranks) | ({} if count is None else {"parameter_count": count})),
    )


def _load_weights(
    checkpoint: Checkpoint,
    config: Any,
    values: Mapping[str, int],
    wanted: Wanted,
    tell: Progress,
) -> ReadModel:
    if not is_gguf(checkpoint.source):
        return load_folder(checkpoint, config, values, wanted, tell)
    from ..gguf.checkpoint import GgufCheckpoint  # these import a library that folders do not need
    from ..gguf.loading import load_gguf

    assert isinstance(checkpoint, GgufCheckpoint), "of a GGUF file"
    return load_gguf(checkpoint, config, values, wanted, tell)


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


def _read_config(checkpoint: Checkpoint) -> Any:
    """The library's configuration of the checkpoint's architecture."""
    source, content = checkpoint.source, checkpoint.config()
    kind = content.get("model_type")
    if kind not in CONFIG_MAPPING:
        own = " and which would need code of its own (auto_map)" if "auto_map" in content else ""
        raise ModelRefused(
            f"{described(source)} cannot be loaded: its model_type is {kind}, "
            f"which transformers does not know{own}; use a model that the library implements"
        )
    try:
        if is_gguf(source):
            return AutoConfig.for_model(**content)
        return AutoConfig.from_pretrained(source, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelRefused(f"{described(source)} cannot be loaded: {first_line(error)}") from error


def _read_vocabulary(checkpoint: Checkpoint, tokenizer: TokenizerFiles, config: Any) -> Vocabulary:
    try:
        vocabulary = read_vocabulary(tokenizer.tokenizer_json, int(config.vocab_size))
    except ModelRefused as refused:
        raise ModelRefused(
            f"{described(checkpoint.source)} cannot be served: {refused}"
        ) from refused
    known = checkpoint.known_tokens(vocabulary.tokenizer_size, vocabulary.output_rows)
    return replace(vocabulary, known=known)


def _other_dtype(dtype: str, config: Any) -> str:
    """The dtype asked for where it is not the checkpoint's own."""
    wanted, own = element_type(dtype, config), element_type("auto", config)
    return "" if wanted == own else str(wanted)


def _check_layers(source: Path, config: Any, ranks: int) -> dict[str, int]:
    """Refuses what the slot cache or so many ranks cannot serve, before weights are read.

    Returns how many values each weight has.
    """
    if is_gguf(source) and ranks > 1:
        raise ModelRefused(
            f"{source} is a GGUF file, which several ranks cannot share; use one, or a folder of safetensors"
        )
    try:
        check_architecture(config)
        check_shares(config, ranks)
        with _loading:  # the library switches the default dtype while it builds a model
            return probe_step(config)
    except ModelRefused as refused:
        raise ModelRefused(f"{described(source)} cannot be served: {refused}") from refused


def _end_token_ids(model: PreTrainedModel, vocabulary: Vocabulary) -> tuple[int, ...]:
    end = model.generation_config.eos_token_id if model.generation_config else None
    end = model.config.eos_token_id if end is None else end
    if end is None:
        return ()
    ends = tuple(end) if isinstance(end, list) else (int(end),)
    return ends if vocabulary.known is None else vocabulary.known.targets_of(ends)
