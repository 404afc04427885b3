"""What is told of the model's own probabilities beside a drawn token."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...core.types import TokenLogprobs


def token_logprobs(
    logits: torch.Tensor, drawn: Sequence[int], wanted: int
) -> tuple[TokenLogprobs, ...]:
    """Log-probabilities of each drawn token, and of the `wanted` most probable ones. logits [W, V]."""
    logprobs = logits.log_softmax(dim=-1)
    top = logprobs.topk(min(wanted, logits.shape[-1]), dim=-1)
    return tuple(
        TokenLogprobs(
            float(logprobs[index, max(drawn[index], 0)]),
            tuple(zip(top.indices[index].tolist(), top.values[index].tolist(), strict=True)),
        )
        for index in range(len(logits))
    )
