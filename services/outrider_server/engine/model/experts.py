"""Mixtures of experts whose tokens have the same bits whatever stands beside them.

The library groups a step's tokens by expert and multiplies each group on its own. How large a group is
depends on where the neighbours go, and a product of another shape may have other bits. Here every expert
reads every token of the step, and what was not chosen counts with weight zero: all products have one shape.
"""

from __future__ import annotations

from typing import Protocol

import torch
from transformers import PreTrainedModel
from transformers.integrations.moe import ExpertsInterface

from ...core.errors import ModelRefused

NAME = "outrider"


class Experts(Protocol):
    """The library's module of experts, as far as it is used: their weights are [E, ..., ...]."""

    gate_up_proj: torch.Tensor
    down_proj: torch.Tensor

    def _apply_gate(self, gate_up: torch.Tensor) -> torch.Tensor: ...


def run_experts_alike(model: PreTrainedModel) -> None:
    """Puts the model's experts on `every_expert`, in place. Raises ModelRefused where that cannot be."""
    experts = [module for module in model.modules() if hasattr(module, "_is_expert_parallel")]
    for module in experts:
        unlike = module.has_bias or module.is_transposed or module.has_post_expert_norm
        if unlike or not module.has_gate:
            raise ModelRefused(f"experts like those of {type(module).__name__} are not served")
    if experts:
        model.set_experts_implementation(NAME)
    elif any("Experts" in type(module).__name__ for module in model.modules()):
        raise ModelRefused(
            f"{model.config.model_type} groups tokens by expert in code of its own, so that a token's bits "
            "would depend on its neighbours"
        )


def every_expert(
    module: Experts, tokens: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """tokens [N, H]; chosen [N, C] int64, expert ids; weights [N, C], theirs -> [N, H].

    The sum over experts is in float32, by ascending expert.
    """
    total: torch.Tensor | None = None
    for expert, (gate_up, down) in enumerate(
        zip(module.gate_up_proj, module.down_proj, strict=True)
    ):
        share = torch.where(chosen == expert, weights.float(), 0.0).sum(-1, keepdim=True)
        hidden = module._apply_gate(tokens @ gate_up.t())
        part = (hidden @ down.t()).float() * share
        total = part if total is None else total + part
    assert total is not None, "a mixture has experts"
    return total.to(tokens.dtype)


ExpertsInterface.register(NAME, every_expert)
