"""Attention with grouped heads folded into the query axis.

Keys and values are never repeated for each query head. With few new tokens and a long
cache on a CPU this is many times faster than the fused kernel of torch.
Importing this module registers the name `ATTENTION` with transformers.
"""

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask

ATTENTION = "outrider_grouped"


def grouped_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """Attend `[batch, heads, new, dim]` to `[batch, kv_heads, length, dim]`.

    `attention_mask` is added to the scores, `[batch, 1, new, length]`. Returns
    `[batch, new, heads, dim]` in the dtype of `query`.
    """
    batch, heads, new, dim = query.shape
    kv_heads, length = key.shape[1:3]
    folded = query.reshape(batch, kv_heads, -1, dim)
    scores = (folded @ key.transpose(-1, -2)).view(batch, kv_heads, -1, new, length) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, None, :, :length]
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    mixed = weights.view(batch, kv_heads, -1, length) @ value
    return mixed.view(batch, heads, new, dim).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, grouped_attention)
AttentionMaskInterface.register(ATTENTION, eager_mask)
