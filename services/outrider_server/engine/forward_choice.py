"""Decides how a model's forward pass is computed: recorded where it can be, else by the library's model."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.utils.quantization_config import QuantizationMethod

from ..core.errors import ModelRefused, StartupError
from ..core.progress import Progress
from .attention.attention_names import PACKED
from .forward import Forward
from .kept_model import keep_model
from .kernel_fit import BITSANDBYTES, why_not_wanted, why_unfit
from .kernels import built_kernels_missing
from .lengths import ANY_LENGTH, length_rule
from .library_forward import LibraryForward
from .limits import StepLimits
from .model.architectures import adapt_model, cache_shape
from .model.loading import LoadedModel
from .model.quantized_weights import is_quantized, why_not_taken
from .model.rotary import LengthRotary, rotate_by_length
from .program.recorded import recorded_model
from .program.views import NotRecorded
from .recorded_forward import RecordedForward
from .starting import Start


def choose_forward(
    loaded: LoadedModel,
    limits: StepLimits,
    compile_mode: str,
    attention: str,
    history: torch.Tensor,
    start: Start,
) -> Forward:
    """The forward pass of a model, which is adapted to it in place; `history` takes every token that is read.

    A model that was recorded has its weights no longer, and is recorded for good. Raises StartupError where
    the engine's own attention was asked for and cannot run.
    """
    model = loaded.model
    adapt_model(model)
    rotaries = rotate_by_length(model, limits.max_context_tokens)
    note = why_not_wanted(compile_mode, attention) or why_not_recorded(model, start.tell)
    if not note:
        try:
            rotaries = rotaries or _rotaries_to_record(model)
            keep = partial(keep_model, start.model_records, loaded)
            recorded = recorded_model(model, rotaries, start.tell, loaded.weights, keep)
        except NotRecorded as reason:
            note = f"the model cannot be recorded: {reason}"
        else:
            return RecordedForward(recorded, loaded, limits, history)
    if attention == PACKED:
        raise StartupError(f"attention {PACKED} cannot run: {note}; use auto or sdpa")
    return LibraryForward(
        loaded, limits, compile_mode, attention, rotaries, history, start, kernel_note=note
    )


def _rotaries_to_record(model: PreTrainedModel) -> tuple[LengthRotary, ...]:
    """Those that no context of a short engine needs: the library's own look at the positions of a step, and
    change themselves by them, which no recording holds."""
    border = length_rule(model.config).border
    if border == ANY_LENGTH.border:
        return ()
    with suppress(ModelRefused):  # within the border the library's own are served
        return rotate_by_length(model, border + 1)
    return ()


def why_not_recorded(model: PreTrainedModel, tell: Progress) -> str:
    """One sentence why the engine's own kernels cannot run a model; nothing where they might."""
    whole = not any(isinstance(weight, DTensor) for weight in model.parameters())
    _, head_dim = cache_shape(model.config)
    why = why_unfit(model.device.type, whole, model.dtype, head_dim) or _unlike_quantized(model)
    return why or built_kernels_missing(tell)


def _unlike_quantized(model: Any) -> str:
    config = getattr(model.config, "quantization_config", None)
    method = getattr(config, "quant_method", BITSANDBYTES)
    if method != BITSANDBYTES:
        return f"the kernels do not take weights quantized by {QuantizationMethod(method).value}"
    reasons = (why_not_taken(each) for each in model.modules() if is_quantized(each))
    return next(filter(None, reasons), "")
