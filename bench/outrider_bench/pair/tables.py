"""What was found of a pair, as tables in Markdown and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from outrider_server.pacing.window import USUAL_WINDOW

from ..spread import spread
from .costs import PairTimes
from .forecast import AUTO, MODEL, NGRAM, OFF, Forecast
from .positions import POSITIONS, by_position, mean_chance, tokens_a_round
from .replied import Reply

ByTemperature = Mapping[float, Sequence[Reply]]


def pair_tables(
    replies: ByTemperature, times: PairTimes, forecasts: Sequence[Forecast]
) -> list[str]:
    """All tables, each after a line that names it."""
    return [
        *_agreement(replies),
        *_categories(replies),
        *_rounds(replies),
        *_steps(times),
        *_forecasts(forecasts),
        *_by_category(forecasts),
    ]


def pair_series(
    replies: ByTemperature, times: PairTimes, forecasts: Sequence[Forecast]
) -> dict[str, Any]:
    """The same for machines, down to each reply."""
    return {
        "times": asdict(times),
        "agreement": [
            {
                "temperature": temperature,
                "mean": mean_chance(found),
                "by_position": [asdict(each) for each in by_position(found)],
                "tokens_a_round": {
                    window: tokens_a_round(found, window) for window in range(1, USUAL_WINDOW + 1)
                },
            }
            for temperature, found in replies.items()
        ],
        "forecasts": [
            {
                "temperature": each.temperature,
                "round_trip_ms": each.round_trip_ms,
                "window": asdict(each.window),
                "by_formula": each.by_formula,
                "speed_ups": {mode: each.ratios(mode, OFF) for mode in each.turns},
                "turns": {
                    mode: [asdict(turn) for turn in turns] for mode, turns in each.turns.items()
                },
            }
            for each in forecasts
        ],
        "replies": [
            {
                "prompt": reply.prompt.name,
                "category": reply.prompt.category,
                "temperature": temperature,
                "tokens": len(reply.tokens),
                "agreed": "".join("01"[agreed] for agreed in reply.agreed),
                "mean_chance": mean_chance([reply]),
            }
            for temperature, found in replies.items()
            for reply in found
        ],
    }


def _agreement(replies: ByTemperature) -> list[str]:
    rows = []
    for temperature, found in replies.items():
        tokens = sum(len(reply.tokens) for reply in found)
        places = [_chance(place.chance) for place in by_position(found)]
        rows.append([_at(temperature), str(tokens), _chance(mean_chance(found)), *places])
    return _table(
        "Chance that a guess agrees: of any, and at each position of a window if all before it agreed",
        ["temperature", "tokens", "any", *map(str, range(1, POSITIONS + 1))],
        rows,
    )


def _categories(replies: ByTemperature) -> list[str]:
    names = list(
        dict.fromkeys(reply.prompt.category for found in replies.values() for reply in found)
    )
    rows = []
    for name in names:
        cells = [name]
        for found in replies.values():
            own = [reply for reply in found if reply.prompt.category == name]
            cells += [
                _chance(mean_chance(own)) if own else "",
                f"{tokens_a_round(own, USUAL_WINDOW):.2f}" if own else "",
            ]
        rows.append(cells)
    heads = ["category"]
    for temperature in replies:
        heads += [f"chance, {_at(temperature)}", "tokens a round"]
    return _table(f"By category; rounds of a window of {USUAL_WINDOW}", heads, rows)


def _rounds(replies: ByTemperature) -> list[str]:
    windows = range(1, USUAL_WINDOW + 1)
    rows = [
        [_at(temperature), *(f"{tokens_a_round(found, window):.2f}" for window in windows)]
        for temperature, found in replies.items()
    ]
    return _table("Tokens a round, by window", ["temperature", *map(str, windows)], rows)


def _steps(times: PairTimes) -> list[str]:
    rows = [
        [f"target, {tokens}", f"{alone:.2f}", f"{beside:.2f}"]
        for tokens, (alone, beside) in enumerate(
            zip(times.target.step_ms, times.target_beside.step_ms, strict=True), 1
        )
    ]
    rows.append(["draft, 1", f"{times.draft.step(1):.2f}", f"{times.draft_beside.step(1):.2f}"])
    rows.append(["a round outside the models", f"{times.outside_ms:.2f}", ""])
    rows.append(["the way to the draft and back", f"{times.way_ms:.2f}", ""])
    return _table(
        "Milliseconds of a step, by its tokens", ["step", "alone", "while the other computes"], rows
    )


def _forecasts(forecasts: Sequence[Forecast]) -> list[str]:
    rows = [
        [
            _at(each.temperature),
            f"{each.round_trip_ms:g}",
            str(each.window.window),
            "running ahead" if each.window.ahead else "in turns",
            f"{each.window.tokens_a_round:.2f}",
            f"{each.by_formula:.2f}",
            *(_ratio(each, mode, OFF) for mode in (MODEL, AUTO, NGRAM)),
            _ratio(each, AUTO, NGRAM),
        ]
        for each in forecasts
    ]
    heads = [
        "temperature",
        "round trip, ms",
        "best window",
        "loop",
        "tokens a round",
        "by the formulas",
    ]
    heads += ["model", "auto", "n-grams alone", "auto / n-grams alone"]
    return _table("Expected times as fast as the target alone", heads, rows)


def _by_category(forecasts: Sequence[Forecast]) -> list[str]:
    """Of the nearest draft."""
    nearest = min(each.round_trip_ms for each in forecasts)
    near = [each for each in forecasts if each.round_trip_ms == nearest]
    names = dict.fromkeys(reply.prompt.category for each in near for reply in each.replies)
    rows = []
    for name in names:
        cells = [name]
        for each in near:
            cells += [_ratio(each, AUTO, OFF, name), _ratio(each, AUTO, NGRAM, name)]
        rows.append(cells)
    heads = ["category"]
    for each in near:
        heads += [f"auto, {_at(each.temperature)}", "auto / n-grams alone"]
    return _table(f"The same by category, the draft {nearest:g} ms away", heads, rows)


def _ratio(forecast: Forecast, above: str, below: str, category: str | None = None) -> str:
    found = forecast.ratios(above, below, category)
    return spread(found).text() if found else ""


def _chance(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _at(temperature: float) -> str:
    return f"{temperature:g}" if temperature else "greedy"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] + ["---:"] * (len(heads) - 1), *rows]
    return [title, "", *("| " + " | ".join(cells) + " |" for cells in lines), ""]
