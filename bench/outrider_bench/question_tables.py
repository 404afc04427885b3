"""What answers to questions say of each system, as tables in Markdown and as what charts draw. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .decode_lines import AUTO, CHOSEN, OFF, systems_of
from .results import speeds
from .spread import ratios, spread
from .tasks import Measurement

Figure = Callable[[Sequence[Measurement]], float | None]
Groups = Mapping[str, Sequence[Measurement]]
"""Measurements by what the columns of a table are called."""

ALONE = {
    "outrider": OFF,
    "llama.cpp": "llama.cpp plain",
    "transformers": "transformers plain",
    "openvino": "openvino plain",
}
"""How each software decodes without guesses, by the first word of its systems' names."""
FIRST_TURN = "turn 1"


def harmonic_speed(measurements: Sequence[Measurement]) -> float | None:
    """Tokens a second: the harmonic mean over turns, so that slow ones count as they are felt."""
    speeds = [entry.outcome.tokens_per_second for entry in measurements if entry.outcome.tokens]
    return statistics.harmonic_mean(speeds) if speeds else None


def first_token_ms(measurements: Sequence[Measurement]) -> float | None:
    """The median of the first token's time."""
    firsts = [entry.outcome.first_seconds for entry in measurements]
    found = [1000 * first for first in firsts if first is not None]
    return statistics.median(found) if found else None


def tokens_a_step(measurements: Sequence[Measurement]) -> float | None:
    """Tokens that a step of the target brought: its own, and guesses accepted. None where nobody counted."""
    tokens = steps = 0
    for entry in measurements:
        accepted = entry.outcome.details.get("accepted")
        if accepted is None:
            return None
        tokens += len(entry.outcome.tokens)
        steps += len(entry.outcome.tokens) - accepted
    return tokens / steps if steps else None


FIGURES: dict[str, tuple[Figure, int]] = {
    "tokens/s, harmonic mean of turns": (harmonic_speed, 1),
    "first token, ms, median": (first_token_ms, 1),
    "mean accepted tokens: tokens a step of the target, its own included": (tokens_a_step, 2),
}
"""What is told, and with how many digits."""


def question_tables(
    measurements: Sequence[Measurement], categories: Mapping[str, str], temperature: float
) -> list[str]:
    """A table for each figure and each kind of ratio: systems down, turns and categories across.

    `categories` by the question's name. Ratios are medians with quartiles over turns.
    """
    found = [entry for entry in measurements if entry.task.temperature == temperature]
    groups, systems = _groups(found, categories), systems_of(found)
    at = f"at {temperature:g}" if temperature else "greedy"
    lines = []
    for title, (figure, digits) in FIGURES.items():
        rows = {
            system: [_text(figure(_own(group, system)), digits) for group in groups.values()]
            for system in systems
        }
        lines += _table(f"{title}, {at}", groups, rows)
    own = {
        system: [_ratio(group, system, alone) for group in groups.values()]
        for system in systems
        if (alone := alone_of(system)) != system
    }
    lines += _table(f"times as fast as the same software without guesses, {at}", groups, own)
    against = {
        system: [_ratio(group, AUTO, system) for group in groups.values()]
        for system in systems
        if system != AUTO
    }
    return lines + _table(f"{AUTO} / the system, {at}", groups, against)


def chosen_notes(measurements: Sequence[Measurement], temperature: float) -> list[str]:
    """One sentence with the setting of each peer that competed."""
    told = {}
    for entry in measurements:
        details = entry.outcome.details
        words = [f"{key} {details[key]}" for key in CHOSEN if key in details]
        if entry.task.temperature == temperature and words:
            told[entry.system] = f"{entry.system} with {', '.join(words)}"
    return [f"at {temperature:g}: {'; '.join(told.values())}"] if told else []


def question_series(
    measurements: Sequence[Measurement],
    categories: Mapping[str, str],
    temperatures: Sequence[float],
) -> dict[str, Any]:
    """For the charts: by category how many times as fast `auto` is as `off`, and every system's speeds."""
    by_category, by_system = [], []
    for temperature in temperatures:
        found = [entry for entry in measurements if entry.task.temperature == temperature]
        for name in dict.fromkeys(categories.values()):
            own = [entry for entry in found if category_of(entry, categories) == name]
            if pairs := _ratios(own, AUTO, OFF):
                point = {"temperature": temperature, "category": name, "ratios": pairs}
                by_category.append(point)
        by_system += [
            {
                "temperature": temperature,
                "system": system,
                "tokens_per_second": list(speeds(found, system, temperature).values()),
            }
            for system in systems_of(found)
        ]
    return {"categories": by_category, "systems": by_system}


def alone_of(system: str) -> str:
    """The system that is the same software without guesses."""
    return ALONE[system.partition(" ")[0]]


def category_of(entry: Measurement, categories: Mapping[str, str]) -> str:
    """The category of a turn's question."""
    return categories[entry.task.name.partition(",")[0]]


def _groups(measurements: Sequence[Measurement], categories: Mapping[str, str]) -> Groups:
    first = [entry for entry in measurements if entry.task.name.endswith(f", {FIRST_TURN}")]
    later = [entry for entry in measurements if entry not in first]
    turns = {"first turns": first, "later turns": later} if later else {}
    return {
        "all": measurements,
        **turns,
        **{
            name: [entry for entry in measurements if category_of(entry, categories) == name]
            for name in dict.fromkeys(categories.values())
        },
    }


def _own(measurements: Sequence[Measurement], system: str) -> list[Measurement]:
    return [entry for entry in measurements if entry.system == system]


def _ratio(measurements: Sequence[Measurement], above: str, below: str) -> str:
    found = _ratios(measurements, above, below)
    return spread(found).text() if found else ""


def _ratios(measurements: Sequence[Measurement], above: str, below: str) -> list[float]:
    """Turn by turn; measurements are of one temperature."""
    found = {
        system: {
            entry.task.name: entry.outcome.tokens_per_second
            for entry in _own(measurements, system)
            if entry.outcome.tokens
        }
        for system in (above, below)
    }
    return ratios(found[above], found[below])


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _table(title: str, groups: Groups, rows: Mapping[str, Sequence[str]]) -> list[str]:
    """Markdown, after a line that names it; nothing without rows."""
    if not rows:
        return []
    lines = [["system", *groups], *([name, *cells] for name, cells in rows.items())]
    head, *body = ["| " + " | ".join(cells) + " |" for cells in lines]
    return [title, "", head, "|---|" + "---:|" * len(groups), *body, ""]
