"""From logits to decided tokens, row by row: penalties, filters, noise, argmax.

Owns the sampling parameters of every slot as tensors, and the rule `y = argmax(log p + g)`. The draw at a
position sees the tokens before that position only, so it is the same with and without speculation.

Every function is shape-agnostic and acts on each position alone; a row's draw does not depend on its
neighbours. Scores are float64, made by one division and one addition, so that fusing cannot round them
differently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...core.types import Draw
from .noise import seed_bits

Noise = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Seeds [R] and positions [R, W] -> Gumbel noise [R, W, V]."""


@dataclass(slots=True)
class Features:
    """What the draws of a step need beyond an argmax; True where any row needs it."""

    noise: bool = False
    """False where every row is greedy."""
    filters: bool = False
    penalties: bool = False
    bias: bool = False
    withheld: bool = False

    @property
    def scores(self) -> bool:
        """True where the draw is not over the model's own logits."""
        return self.penalties or self.bias or self.withheld


class DrawTable:
    """The `Draw` of every slot, as tensors indexed by slot. Written when a turn opens."""

    def __init__(self, slots: int, device: torch.device) -> None:
        def column(dtype: torch.dtype, value: float) -> torch.Tensor:
            return torch.full((slots,), value, dtype=dtype, device=device)

        self.temperature = column(torch.float64, 0.0)
        self.top_k = column(torch.int64, 0)
        self.top_p = column(torch.float64, 1.0)
        self.min_p = column(torch.float64, 0.0)
        self.repetition_penalty = column(torch.float32, 1.0)
        self.frequency_penalty = column(torch.float32, 0.0)
        self.presence_penalty = column(torch.float32, 0.0)
        self.seed = column(torch.int64, 0)
        self.generated_from = column(torch.int64, 0)
        self._draws: dict[int, Draw] = {}

    def write(self, slot: int, draw: Draw) -> None:
        """Sets how the slot's tokens are drawn from now on."""
        sampling = draw.sampling
        self._draws[slot] = draw
        for name in ("temperature", "top_k", "top_p", "min_p"):
            getattr(self, name)[slot] = getattr(sampling, name)
        for name in ("repetition_penalty", "frequency_penalty", "presence_penalty"):
            getattr(self, name)[slot] = getattr(sampling, name)
        self.seed[slot] = seed_bits(draw.seed)
        self.generated_from[slot] = draw.generated_from

    def features(self, slots: list[int]) -> Features:
        """What the draws of these slots need."""
        features = Features()
        for slot in slots:
            sampling = self._draws[slot].sampling
            drawn = sampling.temperature > 0
            features.noise |= drawn
            features.filters |= drawn and (
                sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
            )
            features.penalties |= (
                sampling.repetition_penalty != 1
                or sampling.frequency_penalty != 0
                or sampling.presence_penalty != 0
            )
            features.bias |= (
                bool(sampling.logit_bias) or self._draws[slot].vocabulary_size is not None
            )
        return features

    def logprobs(self, slot: int) -> int | None:
        """How many top logprobs the slot's turn wants; None for none at all."""
        return self._draws[slot].logprobs

    def bias(self, slots: list[int], vocabulary_size: int) -> torch.Tensor:
        """Dense logit bias of a slot a row: [R, V] float32; zero for a slot that was never written.

        What the slot's vocabulary lacks has -inf.
        """
        dense = torch.zeros((len(slots), vocabulary_size), device=self.temperature.device)
        for row, slot in enumerate(slots):
            draw = self._draws.get(slot)
            if draw is None:
                continue
            for token, value in draw.sampling.logit_bias.items():
                dense[row, token] = value
            if draw.vocabulary_size is not None:
                dense[row, draw.vocabulary_size :] = -torch.inf
        return dense

    def withholds(self, slot: int, position: int) -> bool:
        """True where the draw that follows this position may not give every token."""
        return position + 1 < self._draws[slot].withheld_until

    def withheld(
        self, slots: list[int], positions: list[int], vocabulary_size: int
    ) -> torch.Tensor:
        """-inf for what the draw after each position may not give, else 0: [N, V] float32.

        One slot and one position a token; a slot that was never written withholds nothing.
        """
        dense = torch.zeros((len(slots), vocabulary_size), device=self.temperature.device)
        for row, (slot, position) in enumerate(zip(slots, positions, strict=True)):
            if slot in self._draws and self.withholds(slot, position):
                dense[row, list(self._draws[slot].withheld)] = -torch.inf
        return dense


def penalize(
    logits: torch.Tensor,
    history: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    table: DrawTable,
) -> torch.Tensor:
    """Applies repetition, frequency and presence penalties.

    logits [R, W, V] float32, history [S, L] int64 (the token at each position of each slot), positions
    [R, W], slots [R] -> [R, W, V] float32. The draw after position j sees the history up to j. Repetition
    counts the whole session (Keskar et al. 2019), frequency and presence the turn's generated tokens.
    """
    rows, width, vocabulary_size = logits.shape
    tokens = history.index_select(0, slots)
    held = torch.arange(tokens.shape[1], device=logits.device)
    seen = held <= positions.unsqueeze(-1)
    generated = seen & (held >= table.generated_from[slots][:, None, None])
    index = tokens.unsqueeze(1).expand(rows, width, -1)
    empty = torch.zeros((rows, width, vocabulary_size), device=logits.device)
    present = empty.scatter_add(-1, index, seen.to(torch.float32)) > 0
    counts = empty.scatter_add(-1, index, generated.to(torch.float32))
    repetition = table.repetition_penalty[slots][:, None, None]
    weakened = torch.where(logits > 0, logits / repetition, logits * repetition)
    logits = torch.where(present, weakened, logits)
    logits = logits - counts * table.frequency_penalty[slots][:, None, None]
    return logits - (counts > 0) * table.presence_penalty[slots][:, None, None]


def keep_probable(scores: torch.Tensor, slots: torch.Tensor, table: DrawTable) -> torch.Tensor:
    """Sets filtered tokens to -inf. scores [R, W, V] float64, after temperature, -> the same.

    In this order: top-k (Fan et al. 2018), top-p over what is left (Holtzman et al. 2019), min-p relative
    to the most probable token (Nguyen et al. 2024). Tokens that tie with the last one kept are kept, so the
    result does not depend on the order of equal scores.
    """
    vocabulary_size = scores.shape[-1]
    ordered = scores.sort(dim=-1, descending=True).values
    top_k = table.top_k[slots].clamp(max=vocabulary_size)
    last = torch.where(top_k > 0, top_k, vocabulary_size)[:, None, None] - 1
    threshold = ordered.gather(-1, last.expand(*scores.shape[:2], 1))
    ordered = ordered.masked_fill(ordered < threshold, -torch.inf)
    probabilities = ordered.softmax(dim=-1)
    mass_above = probabilities.cumsum(dim=-1) - probabilities
    top_p = table.top_p[slots][:, None, None]
    kept = (mass_above < top_p).sum(dim=-1, keepdim=True).clamp(min=1)
    kept = torch.where(top_p < 1, kept, vocabulary_size)  # a rounded sum may reach 1 before the end
    threshold = torch.maximum(threshold, ordered.gather(-1, kept - 1))
    floor = ordered[..., :1] + torch.log(table.min_p[slots])[:, None, None]
    return scores.masked_fill(scores < torch.maximum(threshold, floor), -torch.inf)


def draw_tokens(
    logits: torch.Tensor,
    positions: torch.Tensor,
    slots: torch.Tensor,
    table: DrawTable,
    features: Features,
    noise: Noise,
) -> torch.Tensor:
    """Decides a token after every position: [R, W, V] float32 logits, already penalized, -> [R, W] int64.

    The draw that follows position j uses the noise of position j + 1. Ties go to the lowest token id.
    """
    if not features.noise:
        return logits.argmax(dim=-1)
    temperature = table.temperature[slots][:, None, None]
    greedy = temperature == 0
    # Relative to the largest, so that no temperature, however small, overflows to a tie of infinities.
    relative = logits.to(torch.float64)
    relative = relative - relative.amax(dim=-1, keepdim=True)
    scores = relative / torch.where(greedy, 1.0, temperature)
    if features.filters:
        scores = torch.where(greedy, scores, keep_probable(scores, slots, table))
    gumbel = noise(table.seed[slots], positions + 1)
    return torch.where(greedy, scores, scores + gumbel).argmax(dim=-1)
