"""Weights before and after: the error of each layer, and histograms over all of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

BINS = 201


@dataclass(slots=True)
class WeightComparison:
    """Gathers one layer after the other, so that two models need never be held at once."""

    limit: float
    """Histograms reach from -limit to limit; what lies beyond counts at the ends."""
    errors: dict[str, float] = field(default_factory=dict)
    """By layer: Frobenius norm of the difference over that of the original."""
    before: torch.Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))
    after: torch.Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def add(self, name: str, original: torch.Tensor, quantized: torch.Tensor) -> None:
        """Takes a layer's weights, both [outputs, inputs], of any floating dtype."""
        original, quantized = original.float(), quantized.float()
        norm = torch.linalg.vector_norm(original, dtype=torch.float64)
        difference = torch.linalg.vector_norm(quantized - original, dtype=torch.float64)
        self.errors[name] = (difference / norm).item() if norm > 0 else 0.0
        self.before += self._counts(original)
        self.after += self._counts(quantized)

    @property
    def mean_error(self) -> float:
        """The mean over layers, each counted once."""
        return sum(self.errors.values()) / len(self.errors)

    def _counts(self, values: torch.Tensor) -> torch.Tensor:
        inside = values.clamp(-self.limit, self.limit).flatten().cpu()
        return torch.histc(inside, BINS, -self.limit, self.limit).to(torch.float64)
