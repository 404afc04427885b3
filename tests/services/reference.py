"""What a reply has to be: the target alone, asked in another way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import outrider
import torch
from transformers import AutoModelForCausalLM

from .harness import generate

LONG_PROMPT = [100 + index * index % 3000 for index in range(560)]
"""Token ids without a pattern to them."""


async def target_alone(client: outrider.AsyncClient, prompt: Any, **options: Any) -> list[int]:
    """The tokens that the target generates without any draft."""
    settings = {"draft": "off", "loop": "synchronous", "max_window": 0} | options
    return (await generate(client, prompt, **settings)).tokens


async def as_one_turn(
    client: outrider.AsyncClient, session: outrider.AsyncSession, reply: outrider.AsyncReply
) -> list[int]:
    """What a fresh session generates after all tokens that preceded `reply` in its session.

    For a reply that was read to its end and drawn with its seed at temperature 1.
    """
    tokens = (await session.info(with_tokens=True)).tokens
    assert tokens is not None
    before = tokens[: len(tokens) - len(reply.tokens)]
    return await target_alone(
        client, list(before), seed=reply.summary.seed, max_new_tokens=len(reply.tokens)
    )


def model_logprobs(folder: Path, tokens: Sequence[int]) -> torch.Tensor:
    """Log-probabilities [T, V] of the token after each position, by the plain library."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        return model(torch.tensor([list(tokens)])).logits[0].log_softmax(dim=-1)
