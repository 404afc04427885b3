"""The generated page is of this suite: all that is served or refused stands in it, and nothing failed."""

from __future__ import annotations

from .architectures import REFUSED
from .page import COMMAND, PAGE
from .results import read_results
from .subject import SETTINGS


def sections() -> dict[str, list[str]]:
    """Table rows by the heading that they stand under."""
    found: dict[str, list[str]] = {}
    heading = ""
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif line.startswith("| "):
            found.setdefault(heading, []).append(line)
    return found


def test_the_page_says_that_it_is_generated_and_by_what() -> None:
    first = PAGE.read_text().splitlines()[0]
    assert COMMAND in first
    assert "torch" in first
    assert "transformers" in first
    assert "cores" in first


def test_every_architecture_stands_under_every_setting() -> None:
    for setting in SETTINGS:
        rows = sections()[setting.name][1:]
        names = [row.split("|")[1].strip() for row in rows]
        assert names == [architecture.name for architecture in setting.served]


def test_all_was_run_and_was_right() -> None:
    for setting in SETTINGS:
        for row in sections()[setting.name][1:]:
            assert "**" not in row
            assert "not run" not in row
            cells = [cell.strip() for cell in row.split("|")[1:-1]]
            _, _, _, greedy, promise, turns, kernels = cells
            assert greedy == ("3 of 3" if setting.dtype == "float32" else "-")
            assert promise.startswith("0 of ")
            assert turns == "equal"
            assert kernels == ("own" if setting.compile_mode == "on" else "torch")


def test_the_page_is_that_of_the_kept_results() -> None:
    results = read_results()
    for setting in SETTINGS:
        for row in sections()[setting.name][1:]:
            name, _, *cells = (cell.strip() for cell in row.split("|")[1:-1])
            kept = results.get((name, setting.name))
            assert cells[0] == (kept.error if kept else "not run")
            assert not kept or cells[1:] == [kept.greedy, kept.promise, kept.turns, kept.kernels]


def test_every_refused_model_stands_there_with_its_reason() -> None:
    rows = sections()["Refused"][1:]
    assert len(rows) == len(REFUSED)
    for refused, row in zip(REFUSED, rows, strict=True):
        assert row.startswith(f"| {refused.name} |")
        assert refused.reason in row
