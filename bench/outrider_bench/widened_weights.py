"""The weights of a widened model: where the source's values go, what must be zero, what may be anything.

Zero are the embedding's new columns and, of the two projections that write into the residual stream, the new
rows (nothing new is written) and new columns (nothing new is read); new layers write nothing at all. The
source's norms see a mean over more values, so their weights shrink by the root of the ratio of the widths.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from .shape import Shape

SEED = 20240521
_WRITES = ("self_attn.o_proj", "mlp.down_proj")
_READS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
)
_NORMS = ("input_layernorm", "post_attention_layernorm")


def write_weights(folder: Path, source: Shape, shape: Shape, path: Path) -> None:
    """Writes the widened weights of the model in `folder` as one bf16 file."""
    given: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        given |= load_file(file)
    generator = torch.Generator().manual_seed(SEED)
    shrink = math.sqrt(source.hidden / shape.hidden)
    made = {
        "model.embed_tokens.weight": _embedded(
            given["model.embed_tokens.weight"], (shape.vocabulary, shape.hidden), None
        ),
        "model.norm.weight": _norm(given["model.norm.weight"], shape.hidden, shrink, generator),
    }
    if not shape.tied:
        made["lm_head.weight"] = _embedded(
            given["lm_head.weight"], (shape.vocabulary, shape.hidden), generator
        )
    for index in range(shape.layers):
        model = f"model.layers.{index if index < source.layers else 0}"
        for name, size in _layer_sizes(shape).items():
            weight = given[f"{model}.{name}.weight"]
            if name in _NORMS:
                value = _norm(weight, shape.hidden, shrink, generator)
            elif name in _READS:
                value = _embedded(weight, size, generator)
            elif index < source.layers:
                value = _embedded(weight, size, None)
            else:
                value = torch.zeros(size)
            made[f"model.layers.{index}.{name}.weight"] = value
    contiguous = {name: value.to(torch.bfloat16).contiguous() for name, value in made.items()}
    save_file(contiguous, path, metadata={"format": "pt"})


def _layer_sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """[rows, columns] of each matrix of a layer, and [width] of its norms."""
    queries = shape.heads * shape.head_size
    keys = shape.key_value_heads * shape.head_size
    sizes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (queries, shape.hidden),
        "self_attn.k_proj": (keys, shape.hidden),
        "self_attn.v_proj": (keys, shape.hidden),
        "self_attn.o_proj": (shape.hidden, queries),
        "mlp.gate_proj": (shape.feed_forward, shape.hidden),
        "mlp.up_proj": (shape.feed_forward, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.feed_forward),
    }
    return sizes | dict.fromkeys(_NORMS, (shape.hidden,))


def _embedded(
    weight: torch.Tensor, size: tuple[int, ...], generator: torch.Generator | None
) -> torch.Tensor:
    """`weight` in the first rows and columns of [rows, columns]; the rest random, or zero without."""
    weight = weight.float()
    made = torch.zeros(size)
    if generator is not None:
        made = torch.randn(size, generator=generator) * weight.std()
    made[: weight.shape[0], : weight.shape[1]] = weight
    return made


def _norm(
    weight: torch.Tensor, width: int, shrink: float, generator: torch.Generator
) -> torch.Tensor:
    """[width]: the source's values times `shrink`, then random ones, which only ever meet zeros."""
    made = 1 + 0.1 * torch.randn(width, generator=generator)
    made[: len(weight)] = weight.float() * shrink
    return made
