"""Model files of formats that are not served: what each is, and what to do with it."""

from __future__ import annotations

import json
from pathlib import Path

from ...core.errors import ModelRefused

GGUF = ".gguf"
ADAPTER = "adapter_config.json"
CONVERT_GGUF = (
    "name the folder of safetensors that it was made from, or write one with transformers "
    "(from_pretrained with gguf_file, then save_pretrained)"
)


def check_format(path: Path) -> None:
    """Raises ModelRefused for what is no folder of a whole model, with what to do."""
    if path.is_dir():
        _check_folder(path)
    elif path.suffix.lower() == GGUF and path.is_file():
        raise ModelRefused(f"{path} is a GGUF file, which is not served; {CONVERT_GGUF}")
    elif path.is_file():
        raise ModelRefused(f"{path} is a file; name the model's folder that it stands in")
    else:
        raise ModelRefused(f"model folder {path} does not exist; name a local folder of a model")


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
            f"model folder {folder} has its weights as GGUF only ({packed[0]}), which is not served; "
            f"{CONVERT_GGUF}"
        )


def _base_of(folder: Path) -> str:
    """Kind and base of an adapter, as far as its file says."""
    try:
        content = json.loads((folder / ADAPTER).read_bytes())
    except ValueError:
        return ""
    named = content if isinstance(content, dict) else {}
    kind, base = named.get("peft_type"), named.get("base_model_name_or_path")
    return (f" ({kind})" if kind else "") + (f" of {base}" if base else "")
