"""A forward pass that was recorded, over a packed slot cache: what runs on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .attention.attention_names import PACKED, AttentionChoice
from .kernels import take_threads
from .kernels.library import kernel_library
from .limits import StepLimits
from .model.facts import ModelFacts
from .packed_cache import PackedCache, PackedShape
from .program.program import Program
from .program.weights import Recorded


class RecordedForward:
    """See `forward.Forward`. Steps may have any number of tokens that a bucket or a prefill chunk has."""

    packed = True
    kernel_note = compile_note = ""

    def __init__(
        self, recorded: Recorded, loaded: ModelFacts, limits: StepLimits, history: torch.Tensor
    ) -> None:
        take_threads()
        sizes = loaded.cache_sizes
        shape = PackedShape(limits.slots + 1, sizes.key_heads, history.shape[1], sizes.head_dim)
        self.cache = PackedCache(sizes.layers, shape, loaded.dtype)
        self.attention = AttentionChoice(PACKED, "the engine's own kernels go together")
        self._drawn_rows = loaded.drawn_rows
        known = loaded.known_tokens
        own_ids = None if known is None else known.own_ids()
        most = max(limits.row_buckets[-1] * limits.width, limits.prefill_width)
        self._program = Program(recorded, self.cache, most, history, own_ids)

    def decide(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Forward`."""
        logits = self._program.decide(inputs)[:, : self._drawn_rows]
        return logits, self.most_probable(logits, hidden=False)

    def read(self, inputs: torch.Tensor) -> None:
        """See `Forward`."""
        self._program.read(inputs)

    def excerpt(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Computes [INPUT_KINDS, N] int64 -> float32 [N, ...], there until the next step: all numbers of the
        first layers, which do what later ones do again. Their keys and values are written."""
        return self._program.excerpt().compute

    def most_probable(self, logits: torch.Tensor, hidden: bool) -> torch.Tensor:
        """See `Forward`."""
        return kernel_library().most_probable(logits, hidden)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """See `Forward`: nothing is left to compile."""
        return function
