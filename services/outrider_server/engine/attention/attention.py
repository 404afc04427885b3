"""Attention of a step over the slot cache, as the library's models call it.

Registered with transformers, a name for each kernel, so that any model of the library which takes its
attention from the library's registry uses it. The library passes a 4-D attention mask through untouched;
a step uses that to say where its tokens live: `places` [R, 1, W, 2] int64 holds (slot, position).
Each row attends to its own slot. What a kernel computes is `attention_kernels.py`'s.
"""

from __future__ import annotations

from functools import partial

import torch
from transformers import AttentionInterface, PreTrainedModel

from ...core.errors import ModelRefused
from .attention_kernels import FLASH, KERNELS, Rules, attend_flash, attend_gathered, attend_in_place
from .attention_names import SDPA

NAME = "outrider"
"""Stands before every name in the library's registry, and by itself for the kernel SDPA."""
SLOPES = "alibi_slopes"
"""Attribute of an attention module that holds its slopes, where it has some."""
IGNORED = frozenset(
    {
        "dropout",
        "is_causal",
        "position_ids",
        "cache_position",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
    }
)
"""What the library hands to attention and a step has no use for."""


def make_places(slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """slots and positions [R, W], int64 -> places [R, 1, W, 2]."""
    return torch.stack((slots, positions), dim=-1).unsqueeze(1)


def registered_name(kernel: str) -> str:
    """The name of a kernel in the library's registry."""
    if kernel == SDPA:
        return NAME
    # The library takes a name with "flash" in it for one of its own.
    return f"{NAME}_{kernel.replace(FLASH, 'slots')}"


def set_kernel(model: PreTrainedModel, kernel: str) -> None:
    """Makes a model that attends over the slot cache do so with this kernel."""
    model.config._attn_implementation = registered_name(kernel)


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    kernel: str,
    scaling: float,
    slopes: torch.Tensor | None = None,
    softcap: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """query [R, H, W, D]; keys, values [S, K, L, D]; places [R, 1, W, 2] -> [R, W, H, D]."""
    rules = Rules(scaling, slopes, softcap, window)
    if kernel == FLASH:
        return attend_flash(query, keys, values, places, rules)
    # Where a row ends is known at no cost on a CPU; asking another device would stop its queue.
    reach = attend_in_place if query.device.type == "cpu" else attend_gathered
    return reach(KERNELS[kernel], query, keys, values, places, rules)


# An operator of its own is opaque to the compiler, which would otherwise have to fix every row's length.
slot_attention = torch.library.custom_op("outrider::slot_attention", _attend, mutates_args=())


@slot_attention.register_fake
def _slot_attention_shape(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    kernel: str,
    scaling: float,
    slopes: torch.Tensor | None = None,
    softcap: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    rows, heads, width, _ = query.shape
    return query.new_empty((rows, width, heads, values.shape[-1]))


def check_call(
    module: torch.nn.Module, places: torch.Tensor | None, extras: dict[str, object]
) -> None:
    """Raises ModelRefused where a model wants more of its attention than a step gives."""
    if not isinstance(places, torch.Tensor) or places.dtype != torch.int64 or places.ndim != 4:
        raise ModelRefused(f"{type(module).__name__} makes a mask of its own, which is not served")
    if extras.get("is_causal", getattr(module, "is_causal", True)) is False:
        raise ModelRefused(f"{type(module).__name__} looks ahead; use a causal model")
    unknown = sorted(name for name in extras.keys() - IGNORED if extras[name] is not None)
    if unknown:
        raise ModelRefused(
            f"{type(module).__name__} attends with {', '.join(unknown)}, which is not served"
        )


def _attention_of_library(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    *,
    kernel: str,
    **extras: object,
) -> tuple[torch.Tensor, None]:
    """The shape of function that the library's registry wants; dropout does not exist in serving."""
    check_call(module, attention_mask, extras)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    slopes = getattr(module, SLOPES, None)
    return slot_attention(
        query, key, value, attention_mask, kernel, scale, slopes, softcap, sliding_window
    ), None


for _kernel in (*KERNELS, FLASH):
    AttentionInterface.register(
        registered_name(_kernel), partial(_attention_of_library, kernel=_kernel)
    )
