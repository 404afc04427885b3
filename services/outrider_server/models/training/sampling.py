"""Batched generation: many continuations of equally long prompts at once.

Owns the decoding loop used to make the draft's training text and to evaluate. It
is not the serving engine and does not draw the same noise.
"""

import torch
from torch import Generator
from transformers import PreTrainedModel, StaticCache

from ...engine.cache_argument import cache_argument


@torch.inference_mode()
def continue_prompts(
    model: PreTrainedModel,
    prompts: torch.Tensor,
    temperatures: torch.Tensor,
    new_tokens: int,
    generator: Generator,
) -> torch.Tensor:
    """Continue each row of `prompts`, `[rows, length] int64`, by `new_tokens`.

    `temperatures`, `[rows] float32`, has one entry a row; 0 is greedy. Returns
    `[rows, length + new_tokens] int64`. A document start does not end a row.
    """
    rows, length = prompts.shape
    cache = StaticCache(config=model.config, max_cache_len=length + new_tokens)
    tokens = torch.empty(rows, length + new_tokens, dtype=torch.long)
    tokens[:, :length] = prompts
    step_input = prompts
    for position in range(length, length + new_tokens):
        logits = model(
            input_ids=step_input, use_cache=True, logits_to_keep=1, **{cache_argument(model): cache}
        ).logits[:, -1]
        step_input = _draw(logits.float(), temperatures, generator)[:, None]
        tokens[:, position] = step_input[:, 0]
    return tokens


def _draw(logits: torch.Tensor, temperatures: torch.Tensor, generator: Generator) -> torch.Tensor:
    """One token a row: `[rows, vocabulary] float32` to `[rows] int64`."""
    greedy = logits.argmax(dim=-1)
    divisors = temperatures.where(temperatures > 0, 1.0)[:, None]
    sums = (logits / divisors).softmax(dim=-1).cumsum(dim=-1)
    marks = torch.rand(len(logits), 1, generator=generator) * sums[:, -1:]
    drawn = torch.searchsorted(sums, marks, right=True)[:, 0]
    drawn = drawn.clamp_max(logits.shape[-1] - 1)
    return torch.where(temperatures > 0, drawn, greedy)
