"""One model over the text: how well it predicts, and which tokens it would draw."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from ..core.types import Draw, SamplingParams
from ..engine.drawing.noise import gumbel_noise
from ..engine.drawing.sampling import DrawTable, Features, draw_tokens
from .mixed import OUTLIER_THRESHOLD, largest_per_column

TEMPERATURES = (0.0, 0.7, 1.0)
SEED = 0
BLOCK_ELEMENTS = 1 << 22
"""Draws are made for so many scores at once."""
NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class Reading:
    """What one pass over the text gave."""

    perplexity: float | None
    """Per token; None where it is no finite number."""
    draws: dict[float, torch.Tensor]
    """By temperature, the token drawn after every position, [positions] int64; NO_TOKEN where none can be."""

    @property
    def positions(self) -> int:
        """Tokens that were predicted."""
        return len(self.draws[0.0])


def read_windows(model: PreTrainedModel, windows: Sequence[torch.Tensor]) -> Reading:
    """Runs the model over every window on its own. windows: [tokens] int64, at least two tokens each.

    A window's token is predicted from those before it in the window. Draws are the engine's own, with one
    noise for all temperatures, keyed by the position in the whole text, so that two readings of the same
    windows share it.
    """
    nats, start = 0.0, 0
    draws: dict[float, list[torch.Tensor]] = {temperature: [] for temperature in TEMPERATURES}
    with torch.inference_mode():
        for window in windows:
            ids = window.to(model.device)
            logits = model(input_ids=ids[None, :-1], use_cache=False).logits[0].float()
            nats += functional.cross_entropy(logits, ids[1:], reduction="sum").item()
            for temperature, tokens in zip(TEMPERATURES, _draw(logits, start), strict=True):
                draws[temperature].append(tokens.cpu())
            start += len(window)
    positions = start - len(windows)
    perplexity = torch.tensor(nats / positions, dtype=torch.float64).exp().item()
    return Reading(
        perplexity=perplexity if math.isfinite(perplexity) else None,
        draws={temperature: torch.cat(parts) for temperature, parts in draws.items()},
    )


def agreement(guesses: Reading, decided: Reading) -> dict[float, float]:
    """By temperature, the share of positions at which both drew the same token."""
    shares = {}
    for temperature, tokens in guesses.draws.items():
        same = (tokens == decided.draws[temperature]) & (tokens != NO_TOKEN)
        shares[temperature] = same.double().mean().item()
    return shares


@contextmanager
def observed_outliers(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, torch.Tensor]]:
    """Watches the inputs of layers: by name, [inputs] bool, True once a value reached the threshold."""
    found: dict[str, torch.Tensor] = {}

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            outlier = (largest_per_column(inputs[0]) >= OUTLIER_THRESHOLD).cpu()
            found[name] = found[name] | outlier if name in found else outlier

        return layers[name].register_forward_pre_hook(hook)

    handles = [watch(name) for name in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _draw(logits: torch.Tensor, start: int) -> torch.Tensor:
    """logits [W, V] float32 -> the token after each position at each temperature, [temperatures, W] int64."""
    width, vocabulary_size = logits.shape
    table = _draw_table(logits.device)
    slots = torch.arange(len(TEMPERATURES), device=logits.device)
    places = torch.arange(start, start + width, device=logits.device)
    block = max(1, BLOCK_ELEMENTS // vocabulary_size)

    def shared_noise(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return gumbel_noise(seeds[:1], positions, vocabulary_size)

    parts = []
    for first in range(0, width, block):
        rows = logits[None, first : first + block].expand(len(TEMPERATURES), -1, -1)
        positions = places[None, first : first + block]
        tokens = draw_tokens(rows, positions, slots, table, Features(noise=True), shared_noise)
        parts.append(tokens.masked_fill(~rows[:1].isfinite().all(dim=-1), NO_TOKEN))
    return torch.cat(parts, dim=-1)


def _draw_table(device: torch.device) -> DrawTable:
    """One slot a temperature, all with the same seed."""
    table = DrawTable(len(TEMPERATURES), device)
    for slot, temperature in enumerate(TEMPERATURES):
        table.write(slot, Draw(SamplingParams(temperature=temperature), SEED, 0))
    return table
