"""What the engine says of the models that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from outrider_server.core.errors import ModelRefused
from outrider_server.engine.model.loading import load_model
from safetensors.torch import save_file

from .architectures import Refused
from .subject import save_tokenizer

CPU = torch.device("cpu")


def save_refused(refused: Refused, folder: Path) -> Path:
    """A folder with this configuration and no weights of its model."""
    (folder / "config.json").write_text(json.dumps(refused.settings))
    save_file({"nothing": torch.zeros(1)}, folder / "model.safetensors")
    save_tokenizer(folder)
    return folder


def refusal(refused: Refused, folder: Path) -> str:
    """The engine's sentence. Raises AssertionError where it serves the model."""
    save_refused(refused, folder)
    try:
        load_model(folder, "auto", CPU)
    except ModelRefused as error:
        return str(error)
    raise AssertionError(f"{refused.name} is served")
