"""Charts of what was measured: speed against agreement, sessions, round trip and kinds of questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .results import SuiteResult
from .spread import spread

matplotlib.use("agg")

SIZE_INCHES = (7.0, 4.5)
DOTS_PER_INCH = 130

Series = Sequence[dict[str, Any]]


def draw_charts(folder: Path, results: Sequence[SuiteResult], label: str) -> list[Path]:
    """Writes a PNG for each suite that has something to draw; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for result in results:
        for key, (name, draw) in CHARTS.items():
            if not result.series.get(key):
                continue
            figure = Figure(figsize=SIZE_INCHES, layout="constrained")
            axes = figure.subplots()
            draw(axes, result.series[key])
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
            figure.suptitle(label, fontsize=6, wrap=True)
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=DOTS_PER_INCH)
            drawn.append(path)
    return drawn


def _agreement(axes: Axes, points: Series) -> None:
    """Tokens per second against the chance of agreement: one point a prompt and system."""
    systems = ("outrider auto", "outrider off", "transformers plain", "llama.cpp plain")
    for system in systems:
        shown = [point for point in points if system in point["systems"]]
        if shown:
            axes.scatter(
                [point["agreement"] for point in shown],
                [point["systems"][system] for point in shown],
                label=system,
            )
    axes.set(xlabel="chance that the draft's guess agrees", ylabel="tokens/s", ylim=(0, None))


def _sessions(axes: Axes, points: Series) -> None:
    """Tokens per second of all sessions together against their number; bars are quartiles."""
    for mode in sorted({point["mode"] for point in points}):
        shown = [point for point in points if point["mode"] == mode]
        _with_quartiles(
            axes,
            [point["sessions"] for point in shown],
            [point["tokens_per_second"] for point in shown],
            f"outrider {mode}",
        )
    axes.set(xlabel="sessions at once", ylabel="tokens/s, all sessions", ylim=(0, None))


def _round_trips(axes: Axes, points: Series) -> None:
    """Speed over that without a draft, against the round trip to the draft."""
    for temperature in sorted({point["temperature"] for point in points}):
        shown = [point for point in points if point["temperature"] == temperature]
        _with_quartiles(
            axes,
            [point["round_trip_ms"] for point in shown],
            [point["ratios"] for point in shown],
            f"temperature {temperature:g}",
        )
    axes.axhline(1.0, color="black", linewidth=1, linestyle="--", label="without a draft")
    axes.set(xlabel="round trip to the draft, ms", ylabel="auto / off", ylim=(0, None))


def _first_token(axes: Axes, points: Series) -> None:
    """Time to the first token against the length of the prompt."""
    _with_quartiles(
        axes,
        [point["prompt_tokens"] for point in points],
        [point["ms"] for point in points],
        "outrider",
    )
    axes.set(xlabel="tokens of the prompt", ylabel="ms to the first token", ylim=(0, None))


def _categories(axes: Axes, points: Series) -> None:
    """How many times as fast Outrider is with guesses as without, by the category of questions."""
    _by_name(axes, points, "category", "ratios")
    axes.axhline(1.0, color="black", linewidth=1, linestyle="--", label="without guesses")
    axes.set(ylabel="auto / off", ylim=(0, None))


def _systems(axes: Axes, points: Series) -> None:
    """Tokens per second of every system over all questions."""
    _by_name(axes, points, "system", "tokens_per_second")
    axes.set(ylabel="tokens/s of a turn", ylim=(0, None))


def _by_name(axes: Axes, points: Series, name: str, values: str) -> None:
    """A place for each name, and in it one point for each temperature; bars are quartiles."""
    names = list(dict.fromkeys(point[name] for point in points))
    temperatures = sorted({point["temperature"] for point in points})
    for index, temperature in enumerate(temperatures):
        shown = [point for point in points if point["temperature"] == temperature]
        beside = 0.15 * (index - (len(temperatures) - 1) / 2)  # that none hides another
        _with_quartiles(
            axes,
            [names.index(point[name]) + beside for point in shown],
            [point[values] for point in shown],
            f"temperature {temperature:g}",
            linestyle="none",
        )
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize="small")


def _with_quartiles(
    axes: Axes,
    places: Sequence[float],
    values: Sequence[Sequence[float]],
    label: str,
    linestyle: str = "-",
) -> None:
    spreads = [spread(list(entry)) for entry in values]
    below = [entry.median - entry.low for entry in spreads]
    above = [entry.high - entry.median for entry in spreads]
    medians = [entry.median for entry in spreads]
    axes.errorbar(
        places,
        medians,
        yerr=(below, above),
        marker="o",
        capsize=3,
        label=label,
        linestyle=linestyle,
    )


CHARTS: dict[str, tuple[str, Callable[[Axes, Series], None]]] = {
    "agreement": ("speed-by-agreement", _agreement),
    "sessions": ("speed-by-sessions", _sessions),
    "round_trips": ("ratio-by-round-trip", _round_trips),
    "first_token_ms": ("first-token-by-prompt", _first_token),
    "categories": ("speed-up-by-category", _categories),
    "systems": ("speed-by-system", _systems),
}
"""By the key of the series: the file's name and what draws it."""
