"""Writing a trained model as a complete local transformers folder.

A folder appears whole or not at all: it is written beside its place and renamed.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from .architecture import MAX_CONTEXT_TOKENS
from .tokenizer import document_start_id, write_tokenizer


def export_model(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights (bf16), configuration and tokenizer, replacing `folder`."""
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    _write_weights(model, unfinished / "model.safetensors")
    _write_json(unfinished / "config.json", _plain_config(model))
    _write_json(unfinished / "generation_config.json", _generation_config(tokenizer))
    write_tokenizer(tokenizer, unfinished, MAX_CONTEXT_TOKENS)
    replaced = folder.with_name(f"{folder.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    unfinished.rename(folder)
    shutil.rmtree(replaced, ignore_errors=True)


def _write_weights(model: LlamaForCausalLM, path: Path) -> None:
    # The output layer is the embedding (tied), so it is stored once.
    weights = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)


def _plain_config(model: LlamaForCausalLM) -> dict[str, Any]:
    config = model.config.to_dict()
    for name in ("_name_or_path", "id2label", "label2id", "problem_type"):
        config.pop(name, None)
    config["architectures"] = ["LlamaForCausalLM"]
    config["dtype"] = "bfloat16"
    config["use_cache"] = True
    return config


def _generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    start = document_start_id(tokenizer)
    return {"bos_token_id": start, "eos_token_id": start, "pad_token_id": start}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
