"""What the engine says of the models that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from outrider_server.engine.engine import Engine
from outrider_server.engine.loading import load_model
from outrider_server.speculation.errors import ModelRefused
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from .architectures import REFUSED, REFUSED_WHEN_RUN, Refused
from .subject import LIMITS, save_tokenizer

CPU = torch.device("cpu")


def save_refused(refused: Refused, folder: Path) -> Path:
    """A folder with this configuration; weights only where the engine comes to read them."""
    settings = dict(refused.settings)
    if refused in REFUSED_WHEN_RUN:
        config = AutoConfig.for_model(str(settings.pop("model_type")), **settings)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    else:
        (folder / "config.json").write_text(json.dumps(settings))
        save_file({"nothing": torch.zeros(1)}, folder / "model.safetensors")
    save_tokenizer(folder)
    return folder


def refusal(refused: Refused, folder: Path, compile_mode: str = "off") -> str:
    """The engine's sentence. Raises AssertionError where it serves the model."""
    save_refused(refused, folder)
    try:
        Engine(load_model(folder, "auto", CPU), LIMITS, compile_mode)
    except ModelRefused as error:
        return str(error)
    raise AssertionError(f"{refused.name} is served")


def all_refused() -> tuple[Refused, ...]:
    """Every model of the suite that is refused."""
    return REFUSED + REFUSED_WHEN_RUN
