"""Loading a model folder: what is refused, and what identifies the model.

Nothing in a folder is executed: safetensors only, no code of the folder's own.
"""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as library_logging

from ..speculation.description import TokenizerFiles
from ..speculation.errors import ModelRefused
from .attention import NAME

DTYPES: dict[str, torch.dtype | str] = {
    "auto": "auto",
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")
SAMPLE_BYTES = 1 << 16
SAMPLES = 64
_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to run, and what identifies it."""

    model: PreTrainedModel
    name: str
    architecture: str
    model_fingerprint: str
    vocabulary_fingerprint: str
    vocabulary_size: int
    end_token_ids: tuple[int, ...]
    max_positions: int
    tokenizer: TokenizerFiles
    parameter_count: int


def load_model(folder: Path, dtype: str, device: torch.device) -> LoadedModel:
    """Loads a causal language model from a local folder. Raises ModelRefused with the reason."""
    config_json = _inspect(folder)
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _check_layers(folder, config)
        # The library switches the default device while it loads, for all threads of the process.
        with _loading:
            model, found = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=DTYPES[dtype],
                attn_implementation=NAME,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        if found["missing_keys"]:
            missing = sorted(found["missing_keys"])
            raise ModelRefused(
                f"model folder {folder} lacks {len(missing)} of the model's weights ({missing[0]})"
            )
    except ModelRefused:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelRefused(f"model folder {folder} cannot be loaded: {reason}") from error
    model = model.to(device).eval()
    tokenizer = _read_tokenizer(folder)
    vocabulary_size = int(config.vocab_size)
    return LoadedModel(
        model=model,
        name=folder.resolve().name,
        architecture=(config.architectures or [type(model).__name__])[0],
        model_fingerprint=_fingerprint_model(folder, config_json),
        vocabulary_fingerprint=_fingerprint_vocabulary(tokenizer.tokenizer_json, vocabulary_size),
        vocabulary_size=vocabulary_size,
        end_token_ids=_end_token_ids(model),
        max_positions=int(getattr(config, "max_position_embeddings", 0) or 0),
        tokenizer=tokenizer,
        parameter_count=model.num_parameters(),
    )


def _inspect(folder: Path) -> bytes:
    """Checks the folder before the library sees it; returns config.json."""
    if not folder.is_dir():
        raise ModelRefused(f"model folder {folder} does not exist; name a local folder of a model")
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelRefused(f"model folder {folder} has no config.json")
    for name in ("config.json", "tokenizer_config.json"):
        if "auto_map" in _read_json(folder / name):
            raise ModelRefused(
                f"model folder {folder} wants to run code of its own (auto_map in {name}); "
                "use a model that the library implements"
            )
    if not any(folder.glob("*.safetensors")):
        pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLE_SUFFIXES]
        if pickles:
            raise ModelRefused(
                f"model folder {folder} has pickle weights only ({sorted(pickles)[0]}); "
                "convert them to safetensors"
            )
        raise ModelRefused(f"model folder {folder} has no safetensors weights")
    return config_path.read_bytes()


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelRefused(f"{path} is not valid JSON") from error
    if not isinstance(content, dict):
        raise ModelRefused(f"{path} does not hold a JSON object")
    return content


def _check_layers(folder: Path, config: Any) -> None:
    """Refuses what a cache that rolls back by length cannot serve."""
    if getattr(config, "is_encoder_decoder", False):
        raise ModelRefused(f"model folder {folder} is an encoder-decoder; use a causal model")
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        raise ModelRefused(
            f"model folder {folder} has layers of kind {', '.join(sorted(kinds))}; "
            "the slot cache serves full attention only"
        )
    window = getattr(config, "sliding_window", None)
    longest = getattr(config, "max_position_embeddings", None) or window
    if window and window < longest and not getattr(config, "layer_types", None):
        raise ModelRefused(
            f"model folder {folder} attends to a sliding window of {window} tokens; "
            "the slot cache serves full attention only"
        )


def _read_tokenizer(folder: Path) -> TokenizerFiles:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ModelRefused(f"model folder {folder} has no tokenizer.json")
    settings = _read_json(folder / "tokenizer_config.json")
    template_file = folder / "chat_template.jinja"
    template = (
        template_file.read_text() if template_file.is_file() else settings.get("chat_template")
    )
    return TokenizerFiles(
        tokenizer_json=path.read_bytes(),
        chat_template=template if isinstance(template, str) else "",
        begin_token=_token_text(settings.get("bos_token")),
        end_token=_token_text(settings.get("eos_token")),
    )


def _token_text(entry: object) -> str:
    """A special token of tokenizer_config.json, which may be plain text or an object."""
    if isinstance(entry, dict):
        entry = entry.get("content")
    return entry if isinstance(entry, str) else ""


def _end_token_ids(model: PreTrainedModel) -> tuple[int, ...]:
    end = model.generation_config.eos_token_id if model.generation_config else None
    end = model.config.eos_token_id if end is None else end
    if end is None:
        return ()
    return tuple(end) if isinstance(end, list) else (int(end),)


def _fingerprint_model(folder: Path, config_json: bytes) -> str:
    """Hex SHA-256 over the configuration and evenly spaced samples of every weight file.

    Sampling keeps the start of a service independent of the model's size; a file of up to 4 MiB is read
    whole.
    """
    digest = hashlib.sha256(config_json)
    for path in sorted(folder.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        stride = max(SAMPLE_BYTES, size // SAMPLES)
        with path.open("rb") as file:
            for offset in range(0, size, stride):
                file.seek(offset)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _fingerprint_vocabulary(tokenizer_json: bytes, vocabulary_size: int) -> str:
    """Hex SHA-256 over the tokenizer and the number of ids."""
    return hashlib.sha256(tokenizer_json + f" {vocabulary_size}".encode()).hexdigest()
