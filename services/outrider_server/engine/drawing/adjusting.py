"""What moves logits before a draw: biases, penalties, and tokens that may not be drawn.

Of a row of logits few are moved, so only these are computed. Each row is moved as its own slot says,
whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...core.types import MAX_FLOAT32
from .sampling import DrawTable, Features


def adjust(
    logits: torch.Tensor,
    history: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    table: DrawTable,
    features: Features,
) -> torch.Tensor:
    """The logits that a token is drawn by: [N, V] float32 -> the same, in memory of their own.

    history [S, L] int64 (the token at each position of each slot), slots and positions [N] int64. No logit
    becomes larger than a float; what may not be drawn has -inf, and what had that before keeps it.
    """
    rows = list(zip(slots.tolist(), positions.tolist(), strict=True))
    moved = logits.clone(memory_format=torch.contiguous_format)
    if features.bias:
        _add_biases(moved, rows, table)
    if features.penalties:
        penalize(moved, history, slots, positions, table)
    if features.bias or features.withheld:
        _withhold(moved, rows, table)
    return moved


def _add_biases(logits: torch.Tensor, rows: Sequence[tuple[int, int]], table: DrawTable) -> None:
    for row, (slot, _) in enumerate(rows):
        biased = table.adjustments(slot).biased
        if len(biased):
            before = logits[row, biased]
            logits[row, biased] = _bounded(before + table.adjustments(slot).biases, before)


def _bounded(moved: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Within a float's numbers; a token that the model cannot give stays one."""
    bounded = moved.clamp(-MAX_FLOAT32, MAX_FLOAT32)
    return torch.where(before == -torch.inf, before, bounded)


def _withhold(logits: torch.Tensor, rows: Sequence[tuple[int, int]], table: DrawTable) -> None:
    for row, (slot, position) in enumerate(rows):
        adjustments = table.adjustments(slot)
        if adjustments.vocabulary_size is not None:
            logits[row, adjustments.vocabulary_size :] = -torch.inf
        if table.withholds(slot, position):
            logits[row, adjustments.withheld] = -torch.inf


def penalize(
    logits: torch.Tensor,
    history: torch.Tensor,
    slots: torch.Tensor,
    positions: torch.Tensor,
    table: DrawTable,
) -> None:
    """Applies repetition, frequency and presence penalties to logits [N, V] float32, in place.

    The draw after position j sees the history up to j. Repetition counts the whole session (Keskar et al.
    2019), frequency and presence the turn's generated tokens.
    """
    held = history[:, : int(positions.max()) + 1].index_select(0, slots)
    places = torch.arange(held.shape[1], device=logits.device)
    seen = places <= positions[:, None]
    generated = seen & (places >= table.generated_from[slots][:, None])
    tokens = torch.where(seen, held, held[:, :1])  # the first one is always seen
    counts = torch.zeros_like(logits).scatter_add_(-1, tokens, generated.to(torch.float32))
    counts = counts.gather(-1, tokens)
    repetition = table.repetition_penalty[slots][:, None]
    before = logits.gather(-1, tokens)
    moved = torch.where(before > 0, before / repetition, before * repetition)
    moved = moved - counts * table.frequency_penalty[slots][:, None]
    moved = moved - (counts > 0) * table.presence_penalty[slots][:, None]
    logits.scatter_(-1, tokens, _bounded(moved, before))
