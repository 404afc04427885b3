"""What was named as a model: which kind of files it is, and what to do with kinds that are not served."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ...core.errors import ModelRefused

CONFIG = "config.json"
GGUF = ".gguf"
ADAPTER = "adapter_config.json"
DRAFT_VOCABULARY = "draft_vocab"
"""What a configuration has of a draft that knows a part of its target's tokens alone."""
PART = re.compile(r"-\d{5}-of-\d{5}$")
"""How the names of files end that a model was split into."""


def is_gguf(path: Path) -> bool:
    """Whether this names a GGUF file, which need not be there."""
    return path.suffix.lower() == GGUF and not path.is_dir()


def described(path: Path) -> str:
    """How messages call a model."""
    return f"model file {path}" if is_gguf(path) else f"model folder {path}"


def not_quantized_anew(path: Path, method: str) -> str:
    """Why a GGUF file, or a folder that is quantized by a method, is served without `--quantization` only."""
    is_so = "served as it is quantized" if is_gguf(path) else f"quantized already ({method})"
    named = path if is_gguf(path) else described(path)
    return f"{named} is {is_so}; leave the quantization out"


def model_name(path: Path) -> str:
    """What a model is called by where it is: its folder, or its file without suffix and number."""
    whole = path.resolve()
    return PART.sub("", whole.stem) if is_gguf(path) else whole.name


def check_format(path: Path) -> None:
    """Raises ModelRefused for what is neither a folder of a whole model nor a GGUF file, with what to do."""
    if path.is_dir():
        _check_folder(path)
    elif is_gguf(path):
        if not path.is_file():
            raise ModelRefused(f"model file {path} does not exist")
    elif path.is_file():
        raise ModelRefused(f"{path} is a file; name the model's folder that it stands in")
    else:
        raise ModelRefused(f"model folder {path} does not exist; name a local folder of a model")


def check_target(path: Path) -> None:
    """Raises ModelRefused for what is no model, and for a draft with a vocabulary of its own."""
    check_format(path)
    if not is_gguf(path) and DRAFT_VOCABULARY in _object_in(path / CONFIG):
        raise ModelRefused(only_drafts(path))


def only_drafts(folder: Path) -> str:
    """Why a folder with a vocabulary of its own is no target."""
    return (
        f"model folder {folder} has a vocabulary of its own ({DRAFT_VOCABULARY} in its {CONFIG}), so it "
        "knows a part of its tokenizer's tokens and can only draft; name the folder of the target that it "
        "drafts for"
    )


def _check_folder(folder: Path) -> None:
    if (folder / ADAPTER).is_file():
        raise ModelRefused(
            f"model folder {folder} holds an adapter{_base_of(folder)}, which is not merged here; "
            "merge it with peft (PeftModel.from_pretrained, merge_and_unload, save_pretrained), copy the "
            "tokenizer there, and name that folder"
        )
    packed = sorted(path.name for path in folder.iterdir() if path.suffix.lower() == GGUF)
    if packed and not any(folder.glob("*.safetensors")):
        raise ModelRefused(
            f"model folder {folder} has its weights as GGUF; name the file, for example "
            f"{folder / packed[0]}"
        )


def _base_of(folder: Path) -> str:
    """Kind and base of an adapter, as far as its file says."""
    named = _object_in(folder / ADAPTER)
    kind, base = named.get("peft_type"), named.get("base_model_name_or_path")
    return (f" ({kind})" if kind else "") + (f" of {base}" if base else "")


def _object_in(path: Path) -> dict[str, Any]:
    """A JSON object as far as a first look finds one; what is wrong with it is said where it is needed."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, OSError):
        return {}
    return content if isinstance(content, dict) else {}
