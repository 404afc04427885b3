"""Attention of a step over the slot cache, without copying the cache.

Registered with transformers under the name "outrider", so that any model of the library which takes its
attention from the library's registry uses it. The library passes a 4-D attention mask through untouched;
a step uses that to say where its tokens live: `places` [R, 1, W, 2] int64 holds (slot, position).

Each row attends to its own slot. Query groups are folded into the query axis, so grouped keys are never
repeated. Three things may change what a query sees of its keys, all optional:

- `slopes` [H] float32: attention with linear biases (Press, Smith, Lewis, arXiv 2108.12409); a key that is
  n positions back is n slopes lower.
- `window`: a query sees itself and the `window - 1` positions before it.
- `softcap`: scores are `softcap * tanh(score / softcap)` (Gemma 2, arXiv 2408.00118, section 2).
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import AttentionInterface

from ..speculation.errors import ModelRefused

NAME = "outrider"
PACKED_NAME = "outrider_packed"
"""The same over the engine's own kernel, for steps whose rows are packed."""
KEY_BLOCK = 128
"""Keys are read in multiples of this many."""
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
LOWEST = -1e30
"""Stands for the largest score before any was seen; finite, so that differences are numbers."""


def make_places(slots: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """slots and positions [R, W], int64 -> places [R, 1, W, 2]."""
    return torch.stack((slots, positions), dim=-1).unsqueeze(1)


def attend_in_place(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    scaling: float,
    slopes: torch.Tensor | None = None,
    softcap: float | None = None,
    window: int | None = None,
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
        folded = _attend(
            query[row].reshape(1, key_heads, -1, head_dim),
            keys[slot : slot + 1, :, :limit],
            values[slot : slot + 1, :, :limit],
            _mask(places[row : row + 1, 0, :, 1], limit, heads, key_heads, slopes, window),
            scaling,
            softcap,
        )
        out[row] = folded.view(heads, width, -1).transpose(0, 1)
    return out


def attend_gathered(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    places: torch.Tensor,
    scaling: float,
    slopes: torch.Tensor | None = None,
    softcap: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """All rows at once over a copy of their slots: the plain version, for every device.

    Shapes as in `attend_in_place`.
    """
    rows, heads, width, head_dim = query.shape
    key_heads, key_length = keys.shape[1], keys.shape[2]
    slots = places[:, 0, 0, 0]
    folded = _attend(
        query.reshape(rows, key_heads, -1, head_dim),
        keys.index_select(0, slots),
        values.index_select(0, slots),
        _mask(places[:, 0, :, 1], key_length, heads, key_heads, slopes, window),
        scaling,
        softcap,
    )
    return folded.reshape(rows, heads, width, -1).transpose(1, 2).contiguous()


def _mask(
    positions: torch.Tensor,
    length: int,
    heads: int,
    key_heads: int,
    slopes: torch.Tensor | None,
    window: int | None,
) -> torch.Tensor:
    """What folded queries see of `length` keys: positions [R, W] -> [R, 1, G*W, L] bool.

    With slopes [R, K, G*W, L] float32 instead, minus infinity where nothing is seen.
    """
    ahead = torch.arange(length, device=positions.device) - positions[:, :, None]
    visible = ahead <= 0
    if window is not None:
        visible &= ahead > -window
    if slopes is None:
        return visible.repeat(1, heads // key_heads, 1).unsqueeze(1)
    bias = slopes.view(1, heads, 1, 1) * ahead.unsqueeze(1)
    bias = bias.masked_fill(~visible.unsqueeze(1), -torch.inf)
    return bias.reshape(len(positions), key_heads, -1, length)


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    """query [R, K, Q, D]; keys, values [R, K, L, D]; mask as `_mask` gives it -> [R, K, Q, D]."""
    if softcap is None:
        return functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, scale=scaling
        )
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, -torch.inf)
    return _attend_capped(query, keys, values, mask, scaling, softcap)


def _attend_capped(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor,
    scaling: float,
    softcap: float,
) -> torch.Tensor:
    """Attention with capped scores, which the library's fused kernels do not have.

    The softmax is taken online over blocks of keys, so that every product has one shape and a block that
    is hidden changes no bit.
    """
    largest = query.new_full((*query.shape[:-1], 1), LOWEST, dtype=torch.float32)
    total = torch.zeros_like(largest)
    summed = total.expand(*query.shape[:-1], values.shape[-1])
    for start in range(0, keys.shape[2], KEY_BLOCK):
        block = slice(start, start + KEY_BLOCK)
        scores = (query @ keys[:, :, block].transpose(-1, -2)).float() * scaling
        scores = (scores / softcap).tanh() * softcap + bias[..., block]
        before, largest = largest, torch.maximum(largest, scores.amax(-1, keepdim=True))
        weights, shrink = (scores - largest).exp(), (before - largest).exp()
        total = total * shrink + weights.sum(-1, keepdim=True)
        summed = summed * shrink + (weights.to(values.dtype) @ values[:, :, block]).float()
    return (summed / total).to(query.dtype)


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
    slopes: torch.Tensor | None = None,
    softcap: float | None = None,
    window: int | None = None,
) -> torch.Tensor:
    rows, heads, width, _ = query.shape
    return query.new_empty((rows, width, heads, values.shape[-1]))


def _check_call(
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
    **extras: object,
) -> tuple[torch.Tensor, None]:
    """The shape of function that the library's registry wants; dropout does not exist in serving."""
    _check_call(module, attention_mask, extras)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    slopes = getattr(module, SLOPES, None)
    return slot_attention(
        query, key, value, attention_mask, scale, slopes, softcap, sliding_window
    ), None


def _packed_attention_of_library(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **extras: object,
) -> tuple[torch.Tensor, None]:
    """query [1, H, T, D] of packed rows, places [1, 1, T, 2] -> [1, T, H, D].

    `packing.why_not_packed` keeps away models with slopes or capped scores, or whose window binds.
    """
    _check_call(module, attention_mask, extras)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return torch.ops.outrider.packed_attention.default(
        query, key, value, attention_mask, scale
    ), None


AttentionInterface.register(NAME, _attention_of_library)
AttentionInterface.register(PACKED_NAME, _packed_attention_of_library)
