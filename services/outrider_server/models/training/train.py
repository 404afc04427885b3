"""Training a model on the corpus: next-token prediction over windows of the stream.

Owns the loop and its checkpoint. The number of steps is the only budget, so a run
with the same seed repeats on the same machine, however busy it is.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import LlamaForCausalLM

from .batches import BATCH_TOKENS, PARTS_PER_BATCH, Batch, StreamBatches
from .optimizer import PairOptimizer, rate_share

LOG_EVERY_STEPS = 20
CHECKPOINT_EVERY_STEPS = 100
SHORT_SEQUENCE_TOKENS = 512
LONG_SEQUENCE_TOKENS = 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """How long to train, and when sequences grow to the full context."""

    steps: int
    """Optimizer steps, of `BATCH_TOKENS` tokens each."""
    long_share: float = 0.2
    """Share of the steps, at the end, that use sequences of the full context."""
    rate_scale: float = 1.0
    """Factor on the learning rates of `optimizer.py`."""

    def sequence_tokens(self, step: int) -> int:
        """Length of the sequences at `step`."""
        is_long = step >= self.steps * (1.0 - self.long_share)
        return LONG_SEQUENCE_TOKENS if is_long else SHORT_SEQUENCE_TOKENS


def train_on_corpus(
    model: LlamaForCausalLM, stream: torch.Tensor, plan: TrainingPlan, seed: int, checkpoint: Path
) -> None:
    """Train `model` (fp32) in place on `stream`, `[tokens]`; resume from `checkpoint` if there."""
    batches = StreamBatches(stream, seed)
    optimizer = PairOptimizer(model, plan.rate_scale)
    first_step = _load_checkpoint(checkpoint, model, optimizer)
    loss_of = torch.compile(_next_token_loss, dynamic=False)
    model.train()
    total, started = 0.0, time.monotonic()
    for step in range(first_step, plan.steps):
        for part in batches.at(step, plan.sequence_tokens(step)).parts():
            loss = loss_of(model, part) / PARTS_PER_BATCH
            torch.autograd.backward(loss)
            total += loss.item()
        optimizer.step(rate_share(step, plan.steps))
        if (step + 1) % LOG_EVERY_STEPS == 0:
            rate = LOG_EVERY_STEPS * BATCH_TOKENS / (time.monotonic() - started)
            mean = total / LOG_EVERY_STEPS
            logger.info("step %d/%d loss %.4f %.0f tokens/s", step + 1, plan.steps, mean, rate)
            total, started = 0.0, time.monotonic()
        if (step + 1) % CHECKPOINT_EVERY_STEPS == 0 or step + 1 == plan.steps:
            _save_checkpoint(checkpoint, model, optimizer, step + 1)


def _next_token_loss(model: LlamaForCausalLM, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy in nats, `[] float32`."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=batch.inputs, use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch.following.flatten())


def _save_checkpoint(
    path: Path, model: LlamaForCausalLM, optimizer: PairOptimizer, step: int
) -> None:
    unfinished = path.with_suffix(".unfinished")
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, unfinished)
    unfinished.replace(path)


def _load_checkpoint(path: Path, model: LlamaForCausalLM, optimizer: PairOptimizer) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
