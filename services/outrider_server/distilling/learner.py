"""A student that learns: its forward pass over a batch, its optimizer, and how its rate of learning runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..core.errors import StartupError
from .batches import Batch
from .draft_vocabulary import DraftVocabulary
from .objectives import Objective, Pair, agreement, pair_of

PEAK_RATE = 1e-3
WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.95)
WARMING_SHARE = 0.05
"""Of all steps, in which the rate rises; from there on it falls to 0 along half a cosine."""
LARGEST_GRADIENT = 1.0
CHUNK_POSITIONS = 512
"""Logits are there for so many positions at once."""

Features = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a draft would guess at N positions."""

    same: torch.Tensor
    """[N] bool: its most probable token is the target's."""
    chances: torch.Tensor
    """[N] float32: that it draws the target's token at the temperature of learning, at least."""


class Learner:
    """A student in training. All of its weights are float32; matrices are multiplied in bfloat16."""

    def __init__(
        self,
        student: PreTrainedModel,
        vocabulary: DraftVocabulary,
        objective: Objective,
        steps: int,
    ) -> None:
        self.student = student
        self.steps = steps
        self._known = vocabulary.known
        self._objective = objective
        self._device = student.device
        self._features, self._head = _parts(student)
        self._optimizer = torch.optim.AdamW(_groups(student), lr=PEAK_RATE, betas=BETAS, fused=True)

    def learn(self, batch: Batch, weights: torch.Tensor | None, step: int) -> None:
        """One step of training. `weights` [N] says how much each position counts; all the same without.

        Raises StartupError where the gradient is no finite number, with the weights as they were.
        """
        self.student.train()
        rate = PEAK_RATE * rate_share(step, self.steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        batch = batch.to(self._device)
        if weights is None:
            weights = torch.ones(len(batch.own_ids))
        weights = (weights / weights.sum()).to(self._device)
        with _mixed(self._device):
            features = self._features(batch.inputs)[batch.decides]
        held = features.detach().requires_grad_()
        for part in _chunks(len(held)):
            loss = self._objective(self._pair(held[part], batch, part))
            torch.autograd.backward((loss * weights[part]).sum())
        assert held.grad is not None, "every position was learnt from"
        torch.autograd.backward(features, held.grad)
        norm = nn.utils.clip_grad_norm_(self.student.parameters(), LARGEST_GRADIENT)
        if not bool(norm.isfinite()):
            raise StartupError(
                f"step {step} of the training gave no finite numbers; try another objective"
            )
        self._optimizer.step()
        self._optimizer.zero_grad()

    @torch.no_grad()
    def judge(self, batch: Batch) -> Judged:
        """What the student would guess at the batch's positions."""
        self.student.train(False)
        batch = batch.to(self._device)
        with _mixed(self._device):
            features = self._features(batch.inputs)[batch.decides]
        same, chances = [], []
        for part in _chunks(len(features)):
            logits = self._logits(features[part])
            pair = pair_of(
                logits, batch.own_ids[part], batch.logprobs[part], batch.temperatures[part]
            )
            same.append(logits.argmax(-1) == batch.own_ids[part, 0])
            chances.append(agreement(pair))
        return Judged(torch.cat(same).cpu(), torch.cat(chances).cpu())

    def state(self) -> dict[str, Any]:
        """All that later steps depend on."""
        return {"model": self.student.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self.student.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])

    def _pair(self, features: torch.Tensor, batch: Batch, part: slice) -> Pair:
        logits = self._logits(features)
        return pair_of(logits, batch.own_ids[part], batch.logprobs[part], batch.temperatures[part])

    def _logits(self, features: torch.Tensor) -> torch.Tensor:
        """[N, H] -> float32 [N, known]; of at most `CHUNK_POSITIONS`, and computed of so many in any case."""
        padding = (0, 0, 0, CHUNK_POSITIONS - len(features))
        with _mixed(self._device):
            logits = self._head(nn.functional.pad(features, padding))
        return logits[: len(features), : self._known].float()


def rate_share(step: int, steps: int) -> float:
    """Share of the peak rate at `step` of `steps`."""
    warming = max(1, round(steps * WARMING_SHARE))
    if step < warming:
        return (step + 1) / warming
    done = torch.tensor((step - warming) / max(1, steps - warming))
    return float(0.5 * (1 + torch.cos(torch.pi * done)))


def _groups(student: nn.Module) -> list[dict[str, Any]]:
    """Parameters by how they decay: matrices do, other vectors do not."""
    parameters = list(student.parameters())
    return [
        {"params": [each for each in parameters if each.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        {"params": [each for each in parameters if each.ndim < 2], "weight_decay": 0.0},
    ]


def _parts(student: PreTrainedModel) -> tuple[Features, Callable[[torch.Tensor], torch.Tensor]]:
    """Features of [B, L] ids, [B, L, ...], and what makes logits of them.

    The output layer is used alone where that is all that the model does after its layers, so that prompts
    need no logits; where the model does more, its logits are the features.
    """

    def hidden(ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = student.base_model(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def logits(ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = student(input_ids=ids, use_cache=False).logits
        return found

    head: nn.Module = student.get_output_embeddings()  # type: ignore[no-untyped-call]
    tried = torch.arange(min(8, student.config.vocab_size), device=student.device)[None]
    with torch.no_grad():
        is_all = torch.allclose(head(hidden(tried)), logits(tried), rtol=1e-4, atol=1e-4)
    return (hidden, head) if is_all else (logits, nn.Identity())


def _chunks(count: int) -> Iterator[slice]:
    for first in range(0, count, CHUNK_POSITIONS):
        yield slice(first, min(first + CHUNK_POSITIONS, count))


@contextmanager
def _mixed(device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, torch.bfloat16):
        yield
