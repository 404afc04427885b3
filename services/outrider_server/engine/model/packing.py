"""Puts a model on the engine's own kernels: linear layers packed, attention over the slot cache.

Owns the decision whether a model can run so. A packed layer gives a token the same bits whatever stands
beside it, so tokens of many sessions can share a step without padding to each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.utils.quantization_config import QuantizationMethod

from ...core.errors import StartupError
from ...core.progress import Progress, Report, Stage, silent
from ..attention.attention import PACKED, SLOPES, registered_name, set_kernel
from ..attention.attention_choice import AUTO
from ..kernels import kernels_missing, kernels_to_build
from .architectures import binding_window, cache_shape
from .packed_layers import PackedLinear, QuantizedLinear
from .quantized_weights import is_quantized, quantized_weight, why_not_taken
from .quantizing import settle_layers

HEAD_DIM_STEP = 32
LARGEST_HEAD_DIM = 256
BITSANDBYTES = QuantizationMethod.BITS_AND_BYTES


def put_on_kernels(
    model: PreTrainedModel, compile_mode: str, attention: str, tell: Progress
) -> str:
    """Packs the model where that is wanted and possible; else one sentence why it is not. Settles it then.

    Raises StartupError where the engine's own attention was asked for and cannot run.
    """
    note = "compilation is switched off" if compile_mode == "off" else ""
    if attention not in (AUTO, PACKED):
        note = f"attention {attention} was asked for"
    if not note and not is_packed(model):
        note = why_not_packed(model, tell)
        pack_model(model, tell)
    if note and attention == PACKED:
        raise StartupError(f"attention {PACKED} cannot run: {note}; use auto or sdpa")
    if note:
        settle_layers(model)
    return note


def pack_model(model: PreTrainedModel, tell: Progress = silent) -> bool:
    """Replaces the model's linear layers in place; False, changing nothing, where it cannot run so."""
    if why_not_packed(model):
        return False
    find_head: Callable[[], nn.Module | None] = model.get_output_embeddings
    head = id(find_head())
    total, done = sum(_weight_bytes(layer) for layer in model.modules()), 0
    # By id, by name and from its parent: what held layers would keep them until the last one is replaced.
    for parent in [module for module in model.modules() if any(True for _ in module.children())]:
        for name in [name for name, _ in parent.named_children()]:
            child = parent.get_submodule(name)
            size = _weight_bytes(child)
            if size:
                tell(Report(Stage.PACKING, done, total))
                done += size
            if type(child) is nn.Linear:
                # Logits of the most probable tokens are so large that bfloat16 makes ties of many.
                dtype = torch.float32 if id(child) == head else torch.bfloat16
                setattr(parent, name, PackedLinear(child, dtype))
            elif is_quantized(child):
                setattr(parent, name, _quantized(child))
    set_kernel(model, PACKED)
    return True


def _weight_bytes(layer: Any) -> int:
    """What packing a layer reads; 0 for what is not packed."""
    packed = type(layer) is nn.Linear or is_quantized(layer)
    return int(layer.weight.nbytes) if packed else 0


def _quantized(layer: Any) -> QuantizedLinear:
    return QuantizedLinear(quantized_weight(layer), layer.bias)


def is_packed(model: PreTrainedModel) -> bool:
    """True once `pack_model` has replaced the model's layers."""
    return bool(model.config._attn_implementation == registered_name(PACKED))


def why_not_packed(model: PreTrainedModel, tell: Progress = silent) -> str:
    """One sentence why the model cannot run on the engine's own kernels; nothing where it can."""
    _, head_dim = cache_shape(model.config)
    if model.device.type != "cpu":
        return "the kernels are for CPUs"
    if any(isinstance(weight, DTensor) for weight in model.parameters()):
        return "the kernels take whole models, not a rank's share"
    if not all(weight.dtype == torch.bfloat16 for weight in _plain_weights(model)):
        return "the kernels take bfloat16 weights only"
    if head_dim % HEAD_DIM_STEP or head_dim > LARGEST_HEAD_DIM:
        return f"the kernels do not take heads of {head_dim}"
    why = _unlike_packed_attention(model) or _other_products(model)
    if not why and kernels_to_build():
        tell(Report(Stage.BUILDING))
    return why or kernels_missing()


def _plain_weights(model: PreTrainedModel) -> Iterator[torch.Tensor]:
    for module in model.modules():
        if not is_quantized(module):
            yield from module.parameters(recurse=False)


def _unlike_packed_attention(model: PreTrainedModel) -> str:
    if any(hasattr(module, SLOPES) for module in model.modules()):
        return "the kernels do not attend with linear biases (ALiBi)"
    if getattr(model.config, "attn_logit_softcapping", None) is not None:
        return "the kernels do not cap attention scores"
    window = binding_window(model.config)
    return f"the kernels do not attend to a sliding window ({window})" if window else ""


def _other_products(model: PreTrainedModel) -> str:
    """Every product must run on the kernels: torch's depend on how many tokens share a step."""
    method = getattr(
        getattr(model.config, "quantization_config", None), "quant_method", BITSANDBYTES
    )
    if method != BITSANDBYTES:
        return f"the kernels do not take weights quantized by {QuantizationMethod(method).value}"
    for module in model.modules():
        if type(module) is nn.Linear or isinstance(module, nn.Embedding):
            continue
        if is_quantized(module):
            if reason := why_not_taken(module):
                return reason
            continue
        if any(weight.dim() > 1 for weight in module.parameters(recurse=False)):
            return f"the kernels take linear layers only, not {type(module).__name__}"
    return ""
