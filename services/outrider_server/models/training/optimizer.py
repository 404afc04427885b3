"""The optimizer of both models: Muon for matrices, AdamW for the rest, one schedule.

Weights and optimizer state are fp32; only the forward and backward passes are bf16.
"""

from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

MATRIX_LEARNING_RATE = 0.005
EMBEDDING_LEARNING_RATE = 0.003
WEIGHT_DECAY = 0.1
WARMUP_STEPS = 60
DECAY_SHARE = 0.4


class PairOptimizer:
    """Steps Muon and AdamW together under a trapezoid schedule."""

    def __init__(self, model: nn.Module, rate_scale: float = 1.0) -> None:
        named = dict(model.named_parameters())
        matrices = [p for name, p in named.items() if p.ndim == 2 and "embed" not in name]
        embeddings = [p for name, p in named.items() if p.ndim == 2 and "embed" in name]
        vectors = [p for p in named.values() if p.ndim < 2]
        muon = Muon(
            matrices,
            lr=MATRIX_LEARNING_RATE * rate_scale,
            weight_decay=WEIGHT_DECAY,
            adjust_lr_fn="match_rms_adamw",
        )
        adamw = AdamW(
            [
                {"params": embeddings, "weight_decay": WEIGHT_DECAY / 10},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=EMBEDDING_LEARNING_RATE * rate_scale,
            betas=(0.9, 0.95),
            fused=True,
        )
        self._optimizers: tuple[Optimizer, ...] = (muon, adamw)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["peak_rate"] = group["lr"]

    def step(self, rate_share: float) -> None:
        """Apply the gradients at `rate_share` of the peak rates, then clear them."""
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak_rate"] * rate_share
            optimizer.step()
            optimizer.zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer in self._optimizers]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        for optimizer, state in zip(self._optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def rate_share(step: int, steps: int) -> float:
    """Share of the peak rate at `step` of `steps`: rise, hold, then fall linearly to 0."""
    rising = (step + 1) / WARMUP_STEPS
    falling = (steps - step) / (steps * DECAY_SHARE)
    return min(1.0, rising, falling)
