"""Models quantized by bitsandbytes, as its users load them."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from ..core.errors import ModelRefused
from ..engine.model.quantizing import avoid_unfit_kernels
from .layers import output_rows
from .mixed import OUTLIER_THRESHOLD


def load_quantized(
    folder: Path, method: str, dtype: torch.dtype, device: torch.device, kept: Iterable[str]
) -> PreTrainedModel:
    """Loads a folder with its linear layers quantized: `method` is "int8", "nf4" or "fp4".

    dtype is that of all other weights and of the arithmetic; kept names the modules to leave as they are.
    Raises ModelRefused with the library's reason.
    """
    # It tells of each cast and of each optional package.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        loaded: nn.Module = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device},
            quantization_config=_config(method, dtype, list(kept)),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        model = loaded.eval()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelRefused(
            f"model folder {folder} cannot be loaded as {method}: {reason}"
        ) from error
    assert isinstance(model, PreTrainedModel)
    avoid_unfit_kernels(model)
    return model


def library_weight(layer: nn.Module) -> torch.Tensor:
    """A layer's weight as [outputs, inputs], floating: what its codes stand for.

    To be asked before the first step, which may repack the codes. A layer that the library did not take has
    its weight as it is.
    """
    import bitsandbytes

    weight: Any = layer.weight
    if isinstance(layer, bitsandbytes.nn.Linear8bitLt):
        # One scale a row: the row's largest magnitude.
        floating: torch.Tensor = weight.CB.float() * (weight.SCB / 127).unsqueeze(-1)
        return floating
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        numbers = bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state)
        assert isinstance(numbers, torch.Tensor)
        return numbers
    return output_rows(layer)


def _config(method: str, dtype: torch.dtype, kept: list[str]) -> BitsAndBytesConfig:
    if method == "int8":
        return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_8bit=True,
            llm_int8_threshold=OUTLIER_THRESHOLD,
            llm_int8_skip_modules=kept,
        )
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type=method,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=kept,
    )
