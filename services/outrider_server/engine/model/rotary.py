"""Rotary embeddings that depend on a session's length, in the place of the library's.

The library's module takes one length for all tokens of a step and keeps the last one's frequencies. This one
holds the frequencies of every length and looks them up for each token, so it keeps nothing between steps.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import product
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ...core.errors import ModelRefused
from ..lengths import LengthRule, length_rule

Spread = Callable[[torch.Tensor], torch.Tensor]


def _halves(angles: torch.Tensor) -> torch.Tensor:
    return torch.cat((angles, angles), dim=-1)


def _pairs(angles: torch.Tensor) -> torch.Tensor:
    return angles.repeat_interleave(2, dim=-1)


class LengthRotary(nn.Module):
    """Cosines and sines of tokens that are read at lengths of their own.

    `frequencies` [K, D/2] and `scaling` [K] are those of lengths up to the border, of the next longer one,
    and so on; the last hold for all that are longer. `spread` makes the angles of a head's D values of them.
    """

    frequencies: torch.Tensor
    scaling: torch.Tensor

    def __init__(
        self,
        border: int,
        frequencies: torch.Tensor,
        scaling: torch.Tensor,
        spread: Spread,
        keeps_float32: bool,
    ) -> None:
        super().__init__()
        self.border = border
        self.spread = spread
        self.keeps_float32 = keeps_float32
        self.lengths: torch.Tensor | None = None
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("scaling", scaling, persistent=False)

    def place(self, lengths: torch.Tensor) -> None:
        """Says at what length each token of the next forward pass is read: [R, W] int64."""
        self.lengths = lengths

    def forward(
        self, x: torch.Tensor, position_ids: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """position_ids [R, W] -> cosines and sines [R, W, D], in float32 or in the dtype of x."""
        assert self.lengths is not None, "place() comes before the forward pass"
        known = (self.lengths - self.border).clamp(0, self.frequencies.shape[0] - 1)
        angles = self.spread(position_ids[..., None].float() * self.frequencies[known])
        scaling = self.scaling[known][..., None]
        dtype = torch.float32 if self.keeps_float32 else x.dtype
        return (angles.cos() * scaling).to(dtype), (angles.sin() * scaling).to(dtype)


def rotate_by_length(model: PreTrainedModel, max_context_tokens: int) -> tuple[LengthRotary, ...]:
    """Puts such embeddings into the model where contexts this long need them; returns them, also again.

    Raises ModelRefused where the library's own is of a form that is not known.
    """
    rule = length_rule(model.config)
    if max_context_tokens <= rule.border:
        return ()
    placed = []
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LengthRotary):
                placed.append(child)
            elif hasattr(child, "rope_type"):
                placed.append(_replacement(child, rule, max_context_tokens, model.dtype))
                setattr(parent, name, placed[-1])
    if not placed:
        raise _refusal(rule, type(model).__name__)
    return tuple(placed)


def _refusal(rule: LengthRule, name: str) -> ModelRefused:
    return ModelRefused(
        f"{name} has other frequencies for contexts beyond {rule.border} tokens, in a form that is not "
        f"served; it is served with a context of at most {rule.border} (--max-context-tokens)"
    )


def _replacement(
    module: nn.Module, rule: LengthRule, longest: int, dtype: torch.dtype
) -> LengthRotary:
    """The form is found by comparing: what differs from the library's module is not used."""
    if not isinstance(module.rope_type, str):
        raise _refusal(rule, type(module).__name__)
    frequencies, scaling = _tables(module, rule, longest)
    for spread, keeps_float32 in product((_halves, _pairs), (False, True)):
        own = LengthRotary(rule.border, frequencies, scaling, spread, keeps_float32)
        if all(
            _agrees(own, module, length, dtype)
            for length in (1, rule.border, rule.border + 1, longest)
        ):
            return own
    raise _refusal(rule, type(module).__name__)


def _tables(module: Any, rule: LengthRule, longest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Frequencies [K, D/2] and scaling [K], float32."""
    config, short = module.config, module.original_inv_freq
    named = config.rope_parameters
    last = longest if rule.grows else rule.border + 1
    # One length at a time, as the library: powers of many at once may differ in the last bit.
    beyond = torch.stack(
        [
            ROPE_INIT_FUNCTIONS[module.rope_type](config, short.device, seq_len=length)[0]
            for length in torch.arange(rule.border + 1, last + 1, device=short.device)
        ]
    )
    scaling = [float(module.attention_scaling)] * 2
    if config.model_type == "phimoe":  # of the library's this one scales by length instead
        beyond, scaling = (
            short[None],
            [float(named[key]) for key in ("short_mscale", "long_mscale")],
        )
    frequencies = torch.cat((short[None], beyond)).float()
    factors = torch.full(frequencies.shape[:1], scaling[1], device=short.device)
    factors[0] = scaling[0]
    return frequencies, factors


@torch.no_grad()
def _agrees(own: LengthRotary, module: nn.Module, length: int, dtype: torch.dtype) -> bool:
    """Whether a context of this length gets from it what it gets from the library's module alone."""
    device = own.frequencies.device
    positions = torch.arange(max(0, length - 8), length, device=device)[None]
    like = torch.zeros(1, dtype=dtype, device=device)
    wanted = deepcopy(module)(like, positions)
    own.place(torch.full_like(positions, length))
    got = own(like, positions)
    return len(wanted) == len(got) and all(
        mine.shape == theirs.shape
        and mine.dtype == theirs.dtype
        and torch.allclose(mine.float(), theirs.float(), atol=1e-5)
        for mine, theirs in zip(got, wanted, strict=True)
    )
