"""The plan as a picture: what each precision needs, beside what there is."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core.errors import StartupError
from .types import EnginePlan, Plan

matplotlib.use("agg")

SIZE_INCHES = (7.5, 4.5)
DOTS_PER_INCH = 130
GIB = 1 << 30


def draw_plan(plan: Plan, path: Path) -> None:
    """Writes a PNG with a bar for each precision of each model. Raises StartupError where it cannot."""
    engines = [plan.target] if plan.draft is None else [plan.target, plan.draft]
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    for axes, engine in zip(
        figure.subplots(1, len(engines), squeeze=False)[0], engines, strict=True
    ):
        _draw_engine(axes, engine, plan.memory_bytes)
    figure.suptitle("Planned memory by precision of the weights")
    try:
        figure.savefig(path, dpi=DOTS_PER_INCH)
    except OSError as error:
        raise StartupError(f"the chart {path} cannot be written: {error.strerror}") from error


def _draw_engine(axes: Axes, engine: EnginePlan, memory_bytes: int | None) -> None:
    """Stacked bars: weights, cache, and what steps need."""
    names = list(engine.weights_by_precision)
    memory = engine.memory
    parts = {
        "weights": [engine.weights_by_precision[name].total_bytes / GIB for name in names],
        "cache": [memory.cache_bytes / GIB] * len(names),
        "steps": [(memory.table_bytes + memory.workspace_bytes) / GIB] * len(names),
    }
    bottom = [0.0] * len(names)
    for label, heights in parts.items():
        axes.bar(names, heights, bottom=bottom, label=label)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    if memory_bytes is not None:
        axes.axhline(memory_bytes / GIB, color="black", linewidth=1, linestyle="--", label="memory")
    shape = engine.shape
    axes.set_title(
        f"{engine.sizes.name}\n{shape.slots} slots of {shape.context_tokens:,} tokens",
        fontsize="small",
    )
    axes.set_ylabel("GiB")
    axes.tick_params(axis="x", rotation=30)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small")
