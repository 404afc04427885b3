"""Quantized models: which kinds there are, what they need, and how their layers come to run in a step.

Weights are quantized by bitsandbytes while transformers loads them: 8 bits as LLM.int8() (arXiv 2208.07339),
4 bits as QLoRA's NormalFloat or as 4-bit floats (arXiv 2305.14314, section 3). What a checkpoint holds
quantized already is left to the library, where it is not read here (`stored_loading.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from ...core.errors import ModelRefused
from .formats import not_quantized_anew
from .int8 import Int8Linear
from .quantized_weights import is_four_bit

NONE = "none"
INT8 = "int8"
FOUR_BITS = ("nf4", "fp4")
DEVICES = ("cpu", "cuda")
PACKED_OUTPUTS = 32
"""bitsandbytes' packed kernel for 4 bits takes outputs in multiples of this."""
INSTALL = "pip install 'outrider[quantization]'"


def stored_quantization(folder: Path, config: Any) -> str:
    """What the checkpoint's weights are quantized by already, for example "gptq"; empty where they are not.

    `config` is the library's. Raises ModelRefused for what the library does not know.
    """
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return ""
    if stored.get("load_in_8bit"):
        return INT8
    if stored.get("load_in_4bit"):
        return str(stored.get("bnb_4bit_quant_type", "fp4"))
    method = stored.get("quant_method")
    if method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
        raise ModelRefused(
            f"model folder {folder} is quantized by {method}, which transformers does not know"
        )
    return str(method)


def loading_options(
    folder: Path,
    wanted: str,
    stored: str,
    dtype: torch.dtype,
    device: torch.device,
    *,
    read_here: bool = False,
) -> dict[str, object]:
    """What the library's loader is told of quantization; nothing for a plain model, or one that is read here.

    `dtype` is that of what stays unquantized. Raises ModelRefused where the machine lacks something.
    """
    if wanted != NONE and stored:
        raise ModelRefused(not_quantized_anew(folder, stored))
    kind = stored or wanted
    if kind == NONE or read_here:
        return {}
    if kind == INT8 or kind in FOUR_BITS:
        _check_bitsandbytes(kind, device)
    elif find_spec("accelerate") is None:
        raise ModelRefused(f"a model quantized by {kind} needs accelerate: {INSTALL}")
    options: dict[str, object] = {"device_map": {"": str(device)}}
    if not stored:
        options["quantization_config"] = _settings(kind, dtype)
    return options


def _check_bitsandbytes(kind: str, device: torch.device) -> None:
    missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
    if missing:
        raise ModelRefused(f"quantization {kind} needs {' and '.join(missing)}: {INSTALL}")
    if device.type not in DEVICES:
        raise ModelRefused(
            f"quantization {kind} runs on {' and '.join(DEVICES)}, not on {device.type}"
        )
    # It warns of a further package that it could use, whenever it is imported.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _settings(kind: str, dtype: torch.dtype) -> BitsAndBytesConfig:
    settings: Callable[..., BitsAndBytesConfig] = BitsAndBytesConfig
    if kind == INT8:
        return settings(load_in_8bit=True)
    return settings(load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_compute_dtype=dtype)


def adopt_layers(folder: Path, kind: str, model: PreTrainedModel) -> None:
    """Replaces bitsandbytes' 8-bit layers, in place, by layers that look at each token alone.

    Raises ModelRefused where the model has no layer of that kind.
    """
    if kind != INT8 and kind not in FOUR_BITS:
        return
    from bitsandbytes.nn.modules import Linear8bitLt

    found = False
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Linear8bitLt):
                setattr(parent, name, _own_layer(child))
                found = True
            found = found or is_four_bit(child)
    if not found:
        raise ModelRefused(
            f"model folder {folder} has no linear layer that {kind} quantizes; leave it out"
        )


@torch.no_grad()
def settle_layers(model: PreTrainedModel) -> None:
    """Makes bitsandbytes' 4-bit layers ready for steps on its own kernels.

    They put their weights into the order of the machine's kernel on their first call, which must not happen
    inside a compiled step.
    """
    avoid_unfit_kernels(model)
    for layer in model.modules():
        if is_four_bit(layer):
            layer(_one_token(layer, model.dtype))


def avoid_unfit_kernels(model: PreTrainedModel) -> None:
    """bitsandbytes' packed kernel fails on other shapes than its own; its plain one takes them all."""
    layer: Any
    for layer in model.modules():
        if is_four_bit(layer):
            whole = layer.in_features % layer.weight.blocksize == 0
            if not whole or layer.out_features % PACKED_OUTPUTS:
                layer.support_avx512bf16_for_cpu = False


def _own_layer(layer: Any) -> nn.Module:
    weight, bias = layer.weight, layer.bias
    return Int8Linear(weight.data, weight.SCB, bias, layer.state.threshold)


def _one_token(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """One token of zeros for a layer: [1, 1, K]."""
    return torch.zeros((1, 1, layer.in_features), dtype=dtype, device=layer.weight.device)
