"""Histograms of weights before and after, as PNG."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch
from matplotlib.figure import Figure

from .comparison import WeightComparison

matplotlib.use("agg")

SIZE_INCHES = (7.0, 3.5)
DOTS_PER_INCH = 110


def draw_histogram(path: Path, method: str, comparison: WeightComparison) -> None:
    """Writes one image: all quantized layers together, before and after."""
    edges = torch.linspace(-comparison.limit, comparison.limit, len(comparison.before) + 1).tolist()
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    axes.stairs(comparison.after.tolist(), edges, fill=True, alpha=0.5, label=method)
    axes.stairs(comparison.before.tolist(), edges, color="black", linewidth=0.8, label="original")
    axes.set(xlabel="weight", ylabel="weights in the bin", yscale="log")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=DOTS_PER_INCH)
