"""Sums over ranks that give a token the same bits wherever it stands in a step.

The library's plan adds the ranks' partial sums by an all-reduce. As soon as three ranks take part, its order
of addition depends on an element's place in the tensor: a token's bits would depend on its row. Here every
rank gets all parts and adds them in the order of the ranks, in float32, and rounds once. The rest of each
style, and the plan itself, are the library's.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import distributed
from torch.distributed.tensor import Replicate
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.distributed.tensor_parallel import (  # type: ignore[attr-defined]
    MoeExpertsParallel,
    ParallelInterface,
    RowwiseParallel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

PREFIX = "outrider_"


def sum_in_rank_order(part: torch.Tensor, group: distributed.ProcessGroup | None) -> torch.Tensor:
    """The sum of every rank's part, of any shape and floating dtype, alike on every rank."""
    part = part.contiguous()
    parts = [torch.empty_like(part) for _ in range(distributed.get_world_size(group))]
    distributed.all_gather(parts, part, group=group)
    total = parts[0].float()
    for other in parts[1:]:
        total = total + other
    return total.to(part.dtype)


class RowwiseInOrder(RowwiseParallel):
    """The library's split over inputs; its bias is added after the sum."""

    def transform_output_post_forward(self, module: Any, output: Any, mesh: Any) -> torch.Tensor:
        """Each rank's partial output [..., N] -> the whole one."""
        total = sum_in_rank_order(output, mesh.get_group())
        bias = module._parameters.get("bias")
        if bias is None:
            return total
        whole: torch.Tensor = total + (bias.to_local() if hasattr(bias, "to_local") else bias)
        return whole


class ExpertsInOrder(MoeExpertsParallel):
    """The library's split of every expert."""

    def transform_output_post_forward(self, module: Any, output: Any, mesh: Any) -> torch.Tensor:
        """Each rank's partial output [N, H] -> the whole one."""
        return sum_in_rank_order(output, mesh.get_group())


_STYLES = {
    "rowwise": RowwiseInOrder(),
    "rowwise_split_input": RowwiseInOrder(
        input_layouts=Replicate(),
        output_layouts=Replicate(),
    ),
    "moe_tp_experts": ExpertsInOrder(),
}
for _name, _style in _STYLES.items():
    ParallelInterface.register(PREFIX + _name, cast(Any, _style))  # its own are no functions either


def plan_in_order(config: PreTrainedConfig) -> dict[str, str]:
    """What to change in the library's plan of a model: its sums, by the names that the plan gives them."""
    model_class = cast(type[PreTrainedModel], MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    prefix = model_class.base_model_prefix
    plan: dict[str, str] = getattr(config, "base_model_tp_plan", None) or {}
    return {f"{prefix}.{name}": PREFIX + style for name, style in plan.items() if style in _STYLES}
