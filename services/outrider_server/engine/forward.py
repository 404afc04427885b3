"""A model's forward pass over the slot cache, as a step asks for it.

There are two: `RecordedForward` replays it by the engine's own code, on CPUs; `LibraryForward` runs the
library's model, on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from .attention.attention_names import AttentionChoice
from .parking import ParkableCache


class StepCache(ParkableCache, Protocol):
    """A slot cache."""

    @property
    def byte_count(self) -> int:
        """Size of all keys and values in bytes."""
        ...

    def wipe(self, slot: int) -> None:
        """Zeroes what a slot holds."""
        ...


class Forward(Protocol):
    """What a step needs of a model."""

    attention: AttentionChoice
    packed: bool
    """Whether rows lie in a step without gaps, so that its tokens are as many as theirs."""
    kernel_note: str
    """Why the engine's own kernels do not run, in one sentence; empty where they do."""

    @property
    def cache(self) -> StepCache:
        """The slot cache."""
        ...

    @property
    def compile_note(self) -> str:
        """Why steps run eagerly, in one sentence; empty where they do not."""
        ...

    def decide(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[INPUT_KINDS, N] int64 -> float32 logits [N, R] and the most probable rows [N].

        R are the rows that are drawn from: token ids, but for a draft with a vocabulary of its own. The most
        probable are NOT_FINITE where the logits are no numbers. Ties go to the lowest. All are there until
        the next step.
        """
        ...

    def read(self, inputs: torch.Tensor) -> object:
        """Writes the tokens' keys and values, deciding nothing."""
        ...

    def most_probable(self, logits: torch.Tensor, hidden: bool) -> torch.Tensor:
        """The first of each row's largest logits: [N, V] -> [N], NOT_FINITE where they are no numbers.

        Some may be `hidden` by -inf.
        """
        ...

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The bound method, compiled on its first call if at all."""
        ...
