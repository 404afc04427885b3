"""Models of realistic cost without downloads: a small Llama embedded in a larger one that says the same.

More width, heads, feed-forward units and layers are added such that nothing new reaches the output. Text and
agreement stay those of the small model, up to bf16 rounding, while a step costs what the larger one costs.
Function-preserving growth after Net2Net (Chen, Goodfellow, Shlens, arXiv 1511.05641). Values that cannot
contribute are random. A widened model is never any better than its source and is always labelled.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from outrider_server.core.errors import StartupError

from .model_cache import kept, read_config
from .shape import Shape

LONGEST_POSITIONS = 4096
"""Positions of a widened or lengthened model; text beyond the source's own range is extrapolation."""


def check_widen(millions: float) -> None:
    """Raises StartupError for what is no number of weights to widen to; 0 is not to widen."""
    if not 0 <= millions < math.inf:
        raise StartupError("widen must be a number of at least 0")


def shape_for(source: Shape, millions: float) -> Shape:
    """The shape nearest to so many million weights that can hold `source`.

    As deep as wide (layers near hidden / 64), feed-forward four times the width, the source's ratio of query
    heads to key-value heads. Raises StartupError where nothing so small holds the source.
    """
    ratio = source.heads // source.key_value_heads
    unit = ratio * source.head_size
    candidates = [
        Shape(
            groups * unit,
            max(groups * unit // 64 + extra, source.layers),
            max(4 * groups * unit, source.feed_forward),
            groups * ratio,
            groups,
            source.head_size,
            source.vocabulary,
            source.tied,
        )
        for groups in range(source.key_value_heads, source.key_value_heads + 64)
        for extra in (-1, 0, 1)
    ]
    best = min(candidates, key=lambda shape: abs(shape.parameters - millions * 1e6))
    if millions * 1e6 < source.parameters or best.parameters <= source.parameters:
        raise StartupError(
            f"the model has {source.parameters / 1e6:.0f} million weights; "
            f"it cannot be widened to {millions:g} million"
        )
    return best


def widened(folder: Path, millions: float, cache: Path) -> Path:
    """A folder with the model of `folder` at the cost of so many million weights, made once.

    Raises StartupError for a folder that cannot be widened.
    """
    source = Shape.of(folder)
    shape = shape_for(source, millions)
    name = f"{folder.resolve().name}-widened-{shape.parameters / 1e6:.0f}M"
    return kept(cache, name, folder, asdict(shape), lambda out: _widen(folder, source, shape, out))


def lengthened(folder: Path, positions: int, cache: Path) -> Path:
    """A copy of a folder that accepts `positions` tokens; the folder itself if it does already."""
    config = read_config(folder)
    if int(config.get("max_position_embeddings") or 0) >= positions:
        return folder
    name = f"{folder.resolve().name}-lengthened-{positions}"

    def make(out: Path) -> None:
        for path in folder.glob("*.safetensors*"):
            shutil.copy(path, out / path.name)
        _write_config(folder, out, {"max_position_embeddings": positions})

    return kept(cache, name, folder, {"positions": positions}, make)


def _write_config(source: Path, out: Path, changes: dict[str, Any]) -> None:
    content = read_config(source) | changes
    (out / "config.json").write_text(json.dumps(content, indent=2) + "\n")


def _widen(folder: Path, source: Shape, shape: Shape, out: Path) -> None:
    from .widened_weights import write_weights  # torch, which the command starts without

    config = read_config(folder)
    positions = max(LONGEST_POSITIONS, int(config.get("max_position_embeddings") or 0))
    _write_config(
        folder,
        out,
        {
            "widened_from": folder.resolve().name,
            "dtype": "bfloat16",
            "hidden_size": shape.hidden,
            "num_hidden_layers": shape.layers,
            "intermediate_size": shape.feed_forward,
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.key_value_heads,
            "head_dim": shape.head_size,
            "rms_norm_eps": float(config["rms_norm_eps"]) * source.hidden / shape.hidden,
            "max_position_embeddings": positions,
        },
    )
    write_weights(folder, source, shape, out / "model.safetensors")
