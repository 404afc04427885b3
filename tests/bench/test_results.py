"""Findings: counted, written, drawn."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from outrider_bench.charts import CHARTS, draw_charts
from outrider_bench.machine import caption, machine_facts
from outrider_bench.report import RESULTS, table_of, write_results
from outrider_bench.results import (
    Line,
    SuiteResult,
    common_start,
    count_differences,
    degraded_notes,
)
from outrider_bench.spread import spread
from rich.console import Console

from .measured import measurement, task

SERIES = {
    "agreement": [{"agreement": 0.5, "temperature": 0.0, "systems": {"outrider auto": 100.0}}],
    "sessions": [{"mode": "auto", "sessions": 2, "tokens_per_second": [10.0, 12.0]}],
    "round_trips": [{"round_trip_ms": 5, "temperature": 0.7, "ratios": [1.1, 1.2]}],
    "first_token_ms": [{"prompt_tokens": 64, "ms": [20.0]}],
    "categories": [{"category": "math", "temperature": 0.0, "ratios": [1.5, 2.0]}],
    "systems": [{"system": "outrider off", "temperature": 1.0, "tokens_per_second": [9.0]}],
}


def test_the_same_tokens_everywhere_are_no_difference() -> None:
    assert count_differences([measurement("outrider auto"), measurement("outrider off")]) == 0


def test_one_other_token_is_a_difference() -> None:
    other = measurement("outrider off", drawn=(5, 6, 7, 9))
    assert count_differences([measurement("outrider auto"), other]) == 1


def test_peers_and_other_tasks_may_differ() -> None:
    others = [
        measurement("transformers plain", drawn=(1,)),
        measurement("outrider auto", of=task("text 2"), drawn=(2,)),
        measurement("outrider auto", of=task(temperature=0.7), drawn=(3,)),
    ]
    assert count_differences([measurement("outrider off"), *others]) == 0


def test_degraded_turns_are_told_with_their_reason() -> None:
    turns = [
        measurement("outrider auto", degraded=True, degraded_reason="no draft"),
        measurement("outrider auto", degraded=True, degraded_reason="no draft"),
        measurement("outrider off", degraded=False, degraded_reason=""),
    ]
    assert degraded_notes(turns) == ["2 turns of outrider auto were degraded: no draft"]


@pytest.mark.parametrize(
    ("one", "other", "same"), [((1, 2, 3), (1, 2, 4), 2), ((1,), (1, 2), 1), ((), (1,), 0)]
)
def test_the_common_start_ends_at_the_first_difference(
    one: tuple[int, ...], other: tuple[int, ...], same: int
) -> None:
    assert common_start(one, other) == same


def test_results_hold_every_turn_and_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/outrider-server", "bench", "decode"])
    turn = measurement("outrider auto", 2.0, rounds=3)
    result = SuiteResult("decode", [Line("speed", spread([1.0, 2.0]))], [turn], SERIES)
    path = write_results(tmp_path / "new", [result], "a label", machine_facts())
    content = json.loads(path.read_text())
    assert path.name == RESULTS
    assert content["models"] == "a label"
    assert content["machine"]["command"] == "outrider-server bench decode"
    (written,) = content["suites"]["decode"]["measurements"]
    assert written["tokens_per_second"] == 2.0
    assert written["details"] == {"rounds": 3}
    assert content["suites"]["decode"]["lines"][0]["value"]["median"] == 1.5


def test_the_table_shows_values_and_machine_and_takes_no_markup() -> None:
    facts = machine_facts() | {"command": "outrider-server [bold]"}
    result = SuiteResult("load", [Line("[red]speed", spread([1.0, 2.0, 3.0]), "x", "a note")])
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table_of([result], "widened", facts))
    text = console.export_text()
    for shown in ("[red]speed", "2.00 (1.50 to 2.50)", "a note", "widened"):
        assert shown in text
    assert "[bold]" in text
    assert "cores" in caption(facts)
    assert "pinned to avx2" in caption(facts | {"flags": ["avx2"], "pinned_level": "avx2"})
    assert "flags unknown" in caption(facts | {"flags": []})


def test_every_series_is_drawn(tmp_path: Path) -> None:
    drawn = draw_charts(tmp_path, [SuiteResult("all", series=SERIES)], "a label")
    assert {path.stem for path in drawn} == {name for name, _ in CHARTS.values()}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_a_suite_without_points_draws_nothing(tmp_path: Path) -> None:
    assert draw_charts(tmp_path, [SuiteResult("step", series={"steps": [1]})], "") == []
