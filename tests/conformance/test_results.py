"""Kept results: what was run stays, what has become another question is asked again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from .__main__ import parse_arguments, wanted
from .architectures import SERVED
from .checks import PromiseOutcome
from .outcome import Outcome
from .page import write_page
from .results import counts, make_result, read_results, write_results
from .subject import SETTINGS

LLAMA, OTHER = SERVED[:2]
EAGER, RECORDED = (
    next(each for each in SETTINGS if (each.dtype, each.compile_mode) == ("float32", mode))
    for mode in ("off", "on")
)
GOOD = Outcome(
    error=3.4e-6,
    bound=1e-4,
    greedy_differences=0,
    promise=PromiseOutcome(22, 0, 100),
    turns_differ=False,
    packed=False,
    compile_note="",
    kernel_note="compilation is switched off",
)
KEPT = make_result(LLAMA, EAGER, GOOD)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    results = {(LLAMA.name, EAGER.name): KEPT}
    write_results(results, tmp_path / "kept.json")
    assert read_results(tmp_path / "kept.json") == results
    assert [path.name for path in tmp_path.iterdir()] == ["kept.json"]
    assert read_results(tmp_path / "nothing.json") == {}


def test_a_result_counts_for_its_configuration_and_versions_alone() -> None:
    assert counts(KEPT, LLAMA)
    assert not counts(None, LLAMA)
    assert not counts(KEPT, OTHER)
    assert not counts(replace(KEPT, versions="torch 1"), LLAMA)
    assert counts(replace(KEPT, machine="another"), LLAMA)


def test_only_what_is_not_kept_is_run_unless_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {(LLAMA.name, EAGER.name): KEPT}

    def to_run(*words: str) -> set[tuple[str, str]]:
        monkeypatch.setattr("sys.argv", ["conformance", *words])
        return {(each.name, setting.name) for each, setting in wanted(parse_arguments(), kept)}

    everything = {(each.name, setting.name) for setting in SETTINGS for each in setting.served}
    assert to_run() == everything - kept.keys()
    assert to_run("--again") == everything
    assert to_run("--only", "eager", "--dtype", "float32") == {
        (each.name, EAGER.name) for each in SERVED[1:]
    }
    assert to_run(LLAMA.name) == {(LLAMA.name, setting.name) for setting in SETTINGS}


def test_a_row_says_what_was_found_and_marks_what_is_wrong() -> None:
    bad = replace(
        GOOD,
        error=2.5,
        greedy_differences=2,
        promise=PromiseOutcome(22, 1, 9),
        turns_differ=True,
        compile_note="no C++ compiler was found",
    )
    row = make_result(LLAMA, RECORDED, bad)
    assert (row.error, row.greedy, row.promise, row.turns, row.kernels) == (
        "**2.5e+00**",
        "1 of 3",
        "1 of 22 differ",
        "differ",
        "torch; eager: no C++ compiler was found",
    )


def test_the_page_names_every_machine_and_says_what_was_not_run() -> None:
    elsewhere = replace(KEPT, machine="another machine", error="7.7e-07")
    results = {(LLAMA.name, EAGER.name): KEPT, (OTHER.name, EAGER.name): elsewhere}
    page = write_page(results, [("T5", "it is refused")])
    assert KEPT.machine in page.splitlines()[0]
    assert "another machine" in page.splitlines()[0]
    assert f"| {OTHER.name} | {OTHER.traits} | 7.7e-07 | 3 of 3 | 0 of 22 differ |" in page
    assert page.count("| not run |") == sum(len(setting.served) for setting in SETTINGS) - 2
    assert "| T5 | it is refused |" in page
