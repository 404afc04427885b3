"""Attention of a step over the slot cache, without copying the cache.

Registered with transformers under the name "outrider", so that any model of the library which takes its
attention from the library's registry uses it. The library passes a 4-D attention mask through untouched;
a step uses that to say where its tokens live: `places` [R, 1, W, 2] int64 holds (slot, position).

Each row attends to its own slot. Query groups are folded into the query axis, so grouped keys are never
repeated.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import AttentionInterface

NAME = "outrider"
PACKED_NAME = "outrider_packed"
"""The same over the engine's own kernel, for steps whose rows are packed."""
KEY_BLOCK = 128
"""Keys are read in multiples of this many."""


def make_places(slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """slots and positions [R, W], int64 -> places [R, 1, W, 2]."""
    return torch.stack((slots, positions), dim=-1).unsqueeze(1)


def attend_in_place(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """One row after the other, each over a view of its slot up to its last position.

    query [R, H, W, D]; keys, values [S, K, L, D]; places [R, 1, W, 2] -> [R, W, H, D]. A row's result
    depends on nothing but its own slot, whatever stands beside it in the step.
    """
    rows, heads, width, head_dim = query.shape
    key_heads, key_length = keys.shape[1], keys.shape[2]
    out = query.new_empty((rows, width, heads, values.shape[-1]))
    ends = places[:, 0, -1].tolist()
    for row, (slot, last_position) in enumerate(ends):
        limit = min(-(-(last_position + 1) // KEY_BLOCK) * KEY_BLOCK, key_length)
        visible = torch.arange(limit) <= places[row, 0, :, 1, None]
        folded = functional.scaled_dot_product_attention(
            query[row].reshape(1, key_heads, -1, head_dim),
            keys[slot : slot + 1, :, :limit],
            values[slot : slot + 1, :, :limit],
            attn_mask=visible.repeat(heads // key_heads, 1),
            scale=scaling,
        )
        out[row] = folded.view(heads, width, -1).transpose(0, 1)
    return out


def attend_gathered(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    """All rows at once over a copy of their slots: the plain version, for every device.

    Shapes as in `attend_in_place`.
    """
    rows, heads, width, head_dim = query.shape
    key_heads, key_length = keys.shape[1], keys.shape[2]
    slots = places[:, 0, 0, 0]
    visible = torch.arange(key_length, device=query.device) <= places[:, :, :, 1, None]
    folded = functional.scaled_dot_product_attention(
        query.reshape(rows, key_heads, -1, head_dim),
        keys.index_select(0, slots),
        values.index_select(0, slots),
        attn_mask=visible.repeat(1, 1, heads // key_heads, 1),
        scale=scaling,
    )
    return folded.reshape(rows, heads, width, -1).transpose(1, 2).contiguous()


# An operator of its own is opaque to the compiler, which would otherwise have to fix every row's length.
slot_attention = torch.library.custom_op(
    "outrider::slot_attention", attend_gathered, mutates_args=()
)
slot_attention.register_kernel("cpu")(attend_in_place)


@slot_attention.register_fake
def _slot_attention_shape(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    scaling: float,
) -> torch.Tensor:
    rows, heads, width, _ = query.shape
    return query.new_empty((rows, width, heads, values.shape[-1]))


def _attention_of_library(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """The shape of function that the library's registry wants; dropout does not exist in serving."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return slot_attention(query, key, value, attention_mask, scale), None


def _packed_attention_of_library(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """query [1, H, T, D] of packed rows, places [1, 1, T, 2] -> [1, T, H, D]."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return torch.ops.outrider.packed_attention.default(
        query, key, value, attention_mask, scale
    ), None


AttentionInterface.register(NAME, _attention_of_library)
AttentionInterface.register(PACKED_NAME, _packed_attention_of_library)
