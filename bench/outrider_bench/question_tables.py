"""What answers to questions say of each system, as tables in Markdown. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence

from .decode_lines import systems_of
from .tasks import Measurement

Figure = Callable[[Sequence[Measurement]], float | None]


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
    "tokens a step of the target": (tokens_a_step, 2),
}
"""What is told, and with how many digits."""


def question_tables(
    measurements: Sequence[Measurement], categories: Mapping[str, str], temperature: float
) -> list[str]:
    """One table for each figure: systems down, categories across. `categories` by the question's name."""
    found = [entry for entry in measurements if entry.task.temperature == temperature]
    names = list(dict.fromkeys(categories.values()))
    at = f"at {temperature:g}" if temperature else "greedy"
    lines = []
    for title, (figure, digits) in FIGURES.items():
        lines += [
            f"{title}, {at}",
            "",
            _row("system", "all", *names),
            "|---|" + "---:|" * (len(names) + 1),
        ]
        for system in systems_of(found):
            own = [entry for entry in found if entry.system == system]
            cells = [figure(own)]
            cells += [
                figure([entry for entry in own if _category(entry, categories) == name])
                for name in names
            ]
            lines.append(_row(system, *(_text(cell, digits) for cell in cells)))
        lines.append("")
    return lines


def _category(entry: Measurement, categories: Mapping[str, str]) -> str:
    return categories[entry.task.name.partition(",")[0]]


def _text(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
