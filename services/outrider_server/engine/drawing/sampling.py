"""From logits to decided tokens, row by row: filters, noise, argmax.

Owns the sampling parameters of every slot as tensors, and the rule `y = argmax(log p + g)`. The draw at a
position sees the tokens before that position only, so it is the same with and without speculation.

Every function is shape-agnostic and acts on each position alone; a row's draw does not depend on its
neighbours. Scores are float64, made by one division and one addition, so that fusing cannot round them
differently.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...core.types import MAX_FLOAT32, NEUTRAL, Draw
from .noise import seed_bits

LOG2E = 1.4426950408889634
OCTAVE = 2**16
"""Steps of a distance between two logits, in which one weighs half of the other."""
OCTAVES = 32

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
    logprobs: bool = False

    @property
    def logits(self) -> bool:
        """True where more is asked of the logits than which is the largest."""
        return self.noise or self.scores or self.logprobs

    @property
    def scores(self) -> bool:
        """True where the draw is not over the model's own logits."""
        return self.penalties or self.bias or self.withheld


@dataclass(frozen=True, slots=True)
class Adjustments:
    """What moves single logits of a slot before its draws."""

    biased: torch.Tensor
    """[B] int64 token ids."""
    biases: torch.Tensor
    """[B] float32, one a token id."""
    withheld: torch.Tensor
    """[H] int64 token ids that no draw before `withheld_until` gives."""
    withheld_until: int = 0
    vocabulary_size: int | None = None
    """Ids from here on are never drawn."""

    @classmethod
    def of(cls, draw: Draw, device: torch.device) -> Adjustments:
        """What the draw asks for."""
        bias = draw.sampling.logit_bias
        return cls(
            torch.tensor(list(bias), dtype=torch.int64, device=device),
            torch.tensor(list(bias.values()), dtype=torch.float32, device=device),
            torch.tensor(draw.withheld, dtype=torch.int64, device=device),
            draw.withheld_until,
            draw.vocabulary_size,
        )


UNADJUSTED = Adjustments.of(Draw(NEUTRAL, 0, 0), torch.device("cpu"))


class DrawTable:
    """The `Draw` of every slot, as tensors indexed by slot. Written when a turn opens."""

    def __init__(self, slots: int, device: torch.device) -> None:
        def column(dtype: torch.dtype, value: float) -> torch.Tensor:
            return torch.full((slots,), value, dtype=dtype, device=device)

        self.temperature = column(torch.float64, 0.0)
        self.top_k = column(torch.int64, 0)
        self.top_p = column(torch.float64, 1.0)
        self.floor = column(torch.float64, -torch.inf)
        self.repetition_penalty = column(torch.float32, 1.0)
        self.frequency_penalty = column(torch.float32, 0.0)
        self.presence_penalty = column(torch.float32, 0.0)
        self.seed = column(torch.int64, 0)
        self.generated_from = column(torch.int64, 0)
        self._draws: dict[int, Draw] = {}
        self._adjustments: dict[int, Adjustments] = {}

    def write(self, slot: int, draw: Draw) -> None:
        """Sets how the slot's tokens are drawn from now on."""
        sampling = draw.sampling
        self._draws[slot] = draw
        for name in ("temperature", "top_k", "top_p"):
            getattr(self, name)[slot] = getattr(sampling, name)
        self.floor[slot] = math.log(sampling.min_p) if sampling.min_p else -torch.inf
        for name in ("repetition_penalty", "frequency_penalty", "presence_penalty"):
            getattr(self, name)[slot] = getattr(sampling, name)
        self.seed[slot] = seed_bits(draw.seed)
        self.generated_from[slot] = draw.generated_from
        self._adjustments[slot] = Adjustments.of(draw, self.seed.device)

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
            features.logprobs |= self._draws[slot].logprobs is not None
            features.bias |= (
                bool(sampling.logit_bias) or self._draws[slot].vocabulary_size is not None
            )
        return features

    def logprobs(self, slot: int) -> int | None:
        """How many top logprobs the slot's turn wants; None for none at all."""
        return self._draws[slot].logprobs

    def withholds(self, slot: int, position: int) -> bool:
        """True where the draw that follows this position may not give every token."""
        return position + 1 < self.adjustments(slot).withheld_until

    def adjustments(self, slot: int) -> Adjustments:
        """What moves single logits of the slot's draws; nothing for a slot that was never written."""
        return self._adjustments.get(slot, UNADJUSTED)

    def divisor(self, slots: torch.Tensor) -> torch.Tensor:
        """What the logits of a slot a row are divided by: [R, 1, 1] float64; 1 where it is greedy."""
        temperature = self.temperature[slots][:, None, None]
        return torch.where(temperature == 0, 1.0, temperature)


def masses_of(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """What each token weighs beside the most probable one, which has 2^31: float32 -> int64, [..., V].

    2^(31 - d), to 10^-5 of it, for a distance d in octaves, rounded to 2^-16; nothing from 32 octaves on.
    Whole numbers add up to the same sum in any order, and no backend rounds them in its own way.
    """
    scale = (OCTAVE * LOG2E / temperature).clamp(max=MAX_FLOAT32).to(torch.float32)
    distance = (logits.amax(dim=-1, keepdim=True) - logits) * scale
    steps = distance.clamp(max=OCTAVES * OCTAVE - 1).round().to(torch.int64)
    whole, part = steps >> 16, steps & (OCTAVE - 1)
    # 2^-f = 1 - f / 2 - f (1 - f) b(f), with b in 17 bits; no product has more than 32.
    bend = 25303 - ((part * (6072 - ((part * 887) >> 16))) >> 16)
    curve = ((part * (OCTAVE - part)) >> 13) * bend
    return (2**31 - (part << 14) - (curve >> 5)) >> whole


def keep_probable(logits: torch.Tensor, slots: torch.Tensor, table: DrawTable) -> torch.Tensor:
    """Which tokens the filters keep: [R, W, V] float32 -> the same in truth values.

    In this order: top-k (Fan et al. 2018), top-p over what is left (Holtzman et al. 2019), min-p relative
    to the most probable token (Nguyen et al. 2024). Each is a least logit, so tokens that tie with the last
    one kept are kept, and the result does not depend on the order of equal ones.
    """
    temperature = table.divisor(slots)
    vocabulary_size = logits.shape[-1]
    ordered = logits.sort(dim=-1, descending=True).values
    top_k = table.top_k[slots].clamp(max=vocabulary_size)
    last = torch.where(top_k > 0, top_k, vocabulary_size)[:, None, None] - 1
    least = ordered.gather(-1, last.expand(*logits.shape[:2], 1))
    masses = masses_of(ordered, temperature).masked_fill(ordered < least, 0)
    above = masses.cumsum(dim=-1) - masses
    top_p = table.top_p[slots][:, None, None]
    wanted = (top_p * masses.sum(dim=-1, keepdim=True)).ceil().to(torch.int64)
    kept = (above < wanted).sum(dim=-1, keepdim=True).clamp(min=1)
    nucleus = torch.maximum(least, ordered.gather(-1, kept - 1))
    least = torch.where(top_p < 1, nucleus, least)
    return (logits >= least) & (scores_of(logits, temperature) >= table.floor[slots][:, None, None])


def scores_of(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """Scores at a temperature: [R, W, V] float32 and [R, 1, 1] float64 -> float64, at most 0.

    Relative to the largest, so that no temperature, however small, overflows to a tie of infinities.
    """
    relative = logits.to(torch.float64)
    return (relative - relative.amax(dim=-1, keepdim=True)) / temperature


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
    scores = scores_of(logits, table.divisor(slots))
    if features.filters:
        scores = scores.masked_fill(~keep_probable(logits, slots, table), -torch.inf)
    gumbel = noise(table.seed[slots], positions + 1)
    greedy = table.temperature[slots][:, None, None] == 0
    return torch.where(greedy, logits, scores + gumbel).argmax(dim=-1)
