"""What the measurements of the suite `decode` say: its lines and what its charts draw. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from .formula import SYNCHRONOUS, FixedPace, agreement, check, round_trip, share_outside_models
from .results import Line, by_task, common_start, speeds, spread_of
from .spread import best, ratios, spread
from .tasks import Measurement

AUTO, MODEL, OFF = "outrider auto", "outrider model", "outrider off"
PLAIN = "transformers plain"
GROUPS = {
    "best assisted": "transformers assisted",
    "best llama.cpp": "llama.cpp",
    "best OpenVINO": "openvino",
}
CHOSEN = ("threads", "threshold", "loop", "window", "guesses", "n-grams", "backend")
"""Settings that the table names."""
COLOCATED = "co-located"

Measurements = Sequence[Measurement]


def decode_lines(
    measurements: Measurements, temperatures: Sequence[float], paces: Sequence[FixedPace]
) -> list[Line]:
    """All lines, temperature by temperature."""
    lines: list[Line] = []
    for temperature in temperatures:
        at = f"at {temperature:g}" if temperature else "greedy"
        lines += _speed_lines(measurements, temperature, at)
        lines += _ratio_lines(measurements, temperature, at)
        lines += _inner_lines(measurements, temperature, at)
        lines += _formula_lines(measurements, temperature, at, paces)
        if not temperature:
            lines += _likeness_lines(measurements)
    return lines


def systems_of(measurements: Measurements) -> list[str]:
    """The systems in the order of their first measurement's task list, Outrider's first."""
    return sorted(
        {entry.system for entry in measurements}, key=lambda name: (name[:8] != "outrider", name)
    )


def _speed_lines(measurements: Measurements, temperature: float, at: str) -> list[Line]:
    lines = []
    for system in systems_of(measurements):
        found = by_task(measurements, system, temperature)
        if not found:
            continue
        details = next(iter(found.values())).outcome.details
        note = ", ".join(f"{key} {details[key]}" for key in CHOSEN if key in details)
        speed = spread_of(speeds(measurements, system, temperature))
        lines.append(Line(f"{system}, {at}", speed, "tokens/s", note, digits=1))
    return lines


def _ratio_lines(measurements: Measurements, temperature: float, at: str) -> list[Line]:
    found = {
        system: speeds(measurements, system, temperature) for system in systems_of(measurements)
    }
    pairs = [(AUTO, PLAIN, PLAIN), (OFF, PLAIN, PLAIN)]
    for group, prefix in GROUPS.items():
        members = {name: found[name] for name in found if name.startswith(prefix) and found[name]}
        if members:
            winner = best(members)
            pairs.insert(1, (AUTO, winner, f"{group} ({winner.removeprefix(prefix).strip()})"))
    pairs += [(AUTO, OFF, OFF), (MODEL, COLOCATED, COLOCATED)]
    return [
        Line(f"{above} / {shown}, {at}", spread(ratios(found[above], found[below])), "x")
        for above, below, shown in pairs
        if found.get(above) and found.get(below)
    ]


def _inner_lines(measurements: Measurements, temperature: float, at: str) -> list[Line]:
    lines = []
    for system in (AUTO, OFF):
        found = by_task(measurements, system, temperature)
        shares = [share_outside_models(entry.outcome.details) for entry in found.values()]
        if shares:
            lines.append(
                Line(f"share of a turn outside both models, {system}, {at}", spread(shares))
            )
    return lines


def _formula_lines(
    measurements: Measurements, temperature: float, at: str, paces: Sequence[FixedPace]
) -> list[Line]:
    lines = []
    chances = chances_of(measurements, temperature, paces)
    if chances:
        lines.append(
            Line(
                f"chance that the draft's guess agrees, {at}", spread_of(chances), "", "per prompt"
            )
        )
    for pace in paces:
        found = by_task(measurements, pace.name, temperature)
        trips = _round_trips(measurements, temperature, paces)
        checks = [
            check(entry.outcome.details, pace, chances[name], trips[name])
            for name, entry in found.items()
        ]
        if checks:
            lines.append(
                Line(
                    f"measured / predicted time a token, {pace.name}, {at}",
                    spread([entry.ratio for entry in checks]),
                    "x",
                    f"predicted {statistics.median(entry.predicted_ms for entry in checks):.2f} ms",
                )
            )
    return lines


def chances_of(
    measurements: Measurements, temperature: float, paces: Sequence[FixedPace]
) -> dict[str, float]:
    """The chance that a guess agrees, by task: pooled over the windows of the synchronous loop."""
    turns: dict[str, list[tuple[str, int]]] = {}
    for pace in paces:
        if pace.loop == SYNCHRONOUS:
            for name, entry in by_task(measurements, pace.name, temperature).items():
                sources = str(entry.outcome.details["sources"])
                turns.setdefault(name, []).append((sources, pace.window))
    return {name: agreement(found) for name, found in turns.items()}


def _round_trips(
    measurements: Measurements, temperature: float, paces: Sequence[FixedPace]
) -> dict[str, float]:
    """Milliseconds to the draft and back, by task: the median over the windows of the synchronous loop."""
    trips: dict[str, list[float]] = {}
    for pace in paces:
        if pace.loop == SYNCHRONOUS:
            for name, entry in by_task(measurements, pace.name, temperature).items():
                trips.setdefault(name, []).append(round_trip(entry.outcome.details, pace.window))
    return {name: statistics.median(found) for name, found in trips.items()}


def _likeness_lines(measurements: Measurements) -> list[Line]:
    """How far greedy peers say the same: they round otherwise, and part at the first near-tie."""
    ours = by_task(measurements, OFF, 0.0)
    lines = []
    for system in (PLAIN, "llama.cpp plain", COLOCATED):
        found = by_task(measurements, system, 0.0)
        same = [
            float(common_start(ours[name].outcome.tokens, entry.outcome.tokens))
            for name, entry in found.items()
            if name in ours
        ]
        if same:
            lines.append(
                Line(f"greedy tokens before {system} differs from {OFF}", spread(same), digits=0)
            )
    return lines


def draw_series(
    measurements: Measurements, temperatures: Sequence[float], paces: Sequence[FixedPace]
) -> dict[str, Any]:
    """For the chart of speed against agreement: per task, the chance and each system's tokens per second."""
    points = []
    for temperature in temperatures:
        chances: Mapping[str, float] = chances_of(measurements, temperature, paces)
        for name, chance in chances.items():
            measured = {
                entry.system: entry.outcome.tokens_per_second
                for entry in measurements
                if entry.task.name == name and entry.task.temperature == temperature
            }
            points.append({"agreement": chance, "temperature": temperature, "systems": measured})
    return {"agreement": points}
