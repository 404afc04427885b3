"""Teaching the draft to agree with the target, on text that the target wrote.

Owns the target's samples and the distillation loop. The draft learns the target's
whole distribution at every position. Most batches are the target's own continuations
of training text, because that is where a draft has to agree; the rest are corpus
windows of the full context, so that it stays sound there.
"""

import logging
from dataclasses import dataclass

import torch
from transformers import LlamaForCausalLM

from .batches import PARTS_PER_BATCH, WINDOW_TOKENS, StreamBatches
from .optimizer import PairOptimizer, rate_share
from .sampling import continue_prompts

SAMPLE_PROMPT_TOKENS = 96
SAMPLE_NEW_TOKENS = 416
SAMPLE_TOKENS = SAMPLE_PROMPT_TOKENS + SAMPLE_NEW_TOKENS
SAMPLE_TEMPERATURES = (0.0, 0.7, 1.0)
ROWS_PER_GROUP = 96
LOG_EVERY_STEPS = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DistillationPlan:
    """How long the draft studies the target, and on what."""

    steps: int
    """Optimizer steps, of `BATCH_TOKENS` tokens each."""
    corpus_every: int = 4
    """Every this many steps the batch comes from the corpus."""
    rate_scale: float = 1.0
    """Factor on the learning rates of `optimizer.py`."""


def sample_from_target(
    target: LlamaForCausalLM, stream: torch.Tensor, groups: int, seed: int
) -> torch.Tensor:
    """Let `target` continue random pieces of `stream`, an equal share at each temperature.

    Returns `[groups, ROWS_PER_GROUP, SAMPLE_TOKENS] int16`.
    """
    generator = torch.Generator().manual_seed(seed)
    temperatures = torch.tensor(SAMPLE_TEMPERATURES).repeat(
        ROWS_PER_GROUP // len(SAMPLE_TEMPERATURES)
    )
    samples = torch.empty(groups, ROWS_PER_GROUP, SAMPLE_TOKENS, dtype=torch.int16)
    for group in range(groups):
        limit = len(stream) - SAMPLE_PROMPT_TOKENS
        starts = torch.randint(limit, (ROWS_PER_GROUP, 1), generator=generator)
        prompts = stream[starts + torch.arange(SAMPLE_PROMPT_TOKENS)].long()
        samples[group] = continue_prompts(
            target, prompts, temperatures, SAMPLE_NEW_TOKENS, generator
        )
        logger.info("sampled group %d/%d", group + 1, groups)
    return samples


def distil(
    draft: LlamaForCausalLM,
    target: LlamaForCausalLM,
    samples: torch.Tensor,
    stream: torch.Tensor,
    plan: DistillationPlan,
    seed: int,
) -> None:
    """Train `draft` (fp32) in place towards `target` on `samples` and `stream`."""
    sample_batches = StreamBatches(samples.flatten(), seed, is_aligned=True)
    corpus_batches = StreamBatches(stream, seed + 1)
    optimizer = PairOptimizer(draft, plan.rate_scale)
    loss_of = torch.compile(_soft_loss, dynamic=False)
    draft.train()
    total = 0.0
    for step in range(plan.steps):
        is_corpus = step % plan.corpus_every == plan.corpus_every - 1
        batch = (
            corpus_batches.at(step // plan.corpus_every, WINDOW_TOKENS)
            if is_corpus
            else sample_batches.at(step, SAMPLE_TOKENS)
        )
        for part in batch.parts():
            loss = loss_of(draft, target, part.inputs) / PARTS_PER_BATCH
            torch.autograd.backward(loss)
            total += loss.item()
        optimizer.step(rate_share(step, plan.steps))
        if (step + 1) % LOG_EVERY_STEPS == 0:
            mean = total / LOG_EVERY_STEPS
            logger.info("step %d/%d soft loss %.4f", step + 1, plan.steps, mean)
            total = 0.0


def _soft_loss(
    draft: LlamaForCausalLM, target: LlamaForCausalLM, inputs: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy of the draft under the target's distribution in nats, `[] float32`.

    It differs from the divergence by the target's entropy, which has no gradient.
    """
    with torch.no_grad():
        target_logits = target(input_ids=inputs, use_cache=False).logits.flatten(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        draft_logits = draft(input_ids=inputs, use_cache=False).logits.flatten(0, 1).float()
    target_probs = target_logits.float().softmax(-1)
    nats: torch.Tensor = draft_logits.logsumexp(-1) - (target_probs * draft_logits).sum(-1)
    return nats.mean()
