"""Reading a model's configuration: of a folder, a config.json or a GGUF file. Executes nothing."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as library_logging

from ..core.errors import ModelRefused
from ..engine.model.causal_class import causal_class
from ..engine.model.formats import DRAFT_VOCABULARY, is_gguf, model_name, not_quantized_anew
from ..engine.model.opening import open_checkpoint
from .config_path import config_path

ROLLED_BACK_KINDS = {"full_attention", "sliding_attention", "chunked_attention"}
"""Kinds of layers that keep keys and values by position."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration of the library, and the class that it describes."""

    path: Path
    """The config.json, or the GGUF file."""
    config: PreTrainedConfig
    model_class: type[PreTrainedModel]
    quantized_by: str
    """The method of a checkpoint that is quantized already; empty for every other."""
    target_ids: int = 0
    """Of a draft with a vocabulary of its own, its target's token ids; 0 for every other model."""

    @property
    def folder(self) -> Path:
        """Where the model's other files would be."""
        return self.path.parent

    @property
    def name(self) -> str:
        """What the model is called."""
        return model_name(self.path if is_gguf(self.path) else self.folder)


def read_config(source: Path) -> ConfigFile:
    """The configuration in a folder or file. Raises ModelRefused with the reason."""
    path = config_path(source)
    content = open_checkpoint(path).config() if is_gguf(path) else _read_object(path)
    library_logging.set_verbosity(logging.ERROR)
    kind = content.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise ModelRefused(
            f"{path} names no model_type; use the config.json of a transformers model"
        )
    if kind not in CONFIG_MAPPING:
        raise ModelRefused(
            f"{path} names the architecture {kind!r}, which transformers {transformers.__version__} "
            "does not have; use a model that the library implements"
        )
    try:
        config = CONFIG_MAPPING[kind].from_dict(content)
    except Exception as error:
        raise ModelRefused(f"{path} cannot be used: {first_line(error)}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused(f"{path} is an encoder-decoder; use a causal model")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelRefused(f"{path} is a {kind}, which is no causal language model")
    _check_layers(path, config)
    return ConfigFile(
        path, config, causal_class(config), _quantized_by(content), _target_ids(content)
    )


def check_unquantized(file: ConfigFile) -> None:
    """Raises ModelRefused for a model that no service quantizes."""
    source = file.path if is_gguf(file.path) else file.folder
    if is_gguf(source) or file.quantized_by:
        raise ModelRefused(not_quantized_anew(source, file.quantized_by))


def first_line(error: Exception) -> str:
    """What an exception of the library says, in one line."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelRefused(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ModelRefused(f"{path} is not valid JSON") from error
    if not isinstance(content, dict):
        raise ModelRefused(f"{path} does not hold a JSON object")
    return content


def _check_layers(path: Path, config: PreTrainedConfig) -> None:
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    others = sorted(kinds - ROLLED_BACK_KINDS)
    if others:
        raise ModelRefused(
            f"{path} has layers of kind {', '.join(others)}; the slot cache serves attention only"
        )


def _target_ids(content: dict[str, Any]) -> int:
    """What a configuration says of a draft's target; whether it is right shows when it is loaded."""
    entry = content.get(DRAFT_VOCABULARY)
    size = entry.get("target_vocab_size") if isinstance(entry, dict) else None
    return size if type(size) is int else 0


def _quantized_by(content: dict[str, Any]) -> str:
    entry = content.get("quantization_config")
    if not isinstance(entry, dict):
        return ""
    return str(entry.get("quant_method") or "an unnamed method")
