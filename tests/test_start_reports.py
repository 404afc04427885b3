"""How far a start is, in words, as a child's lines and as times; and where it is shown."""

from __future__ import annotations

import io

import pytest
from outrider_server.core.progress import Report, Stage
from outrider_server.start_display import Bar, Lines, Nowhere, ToParent, new_display
from outrider_server.start_reports import VARIABLE, read, said, written


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.mark.parametrize("stage", Stage)
def test_a_childs_line_is_read_as_the_report_that_was_written(stage: Stage) -> None:
    report = Report(stage, 3, 1 << 40)
    assert read(written("target", report)) == ("target", report)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ready 127.0.0.1:1",
        "starting",
        "starting target LOADING 1",
        "starting target NOTHING 1 2",
    ],
)
def test_any_other_line_is_no_report(line: str) -> None:
    assert read(line) is None


@pytest.mark.parametrize(
    ("report", "words"),
    [
        (Report(Stage.IMPORTING), "draft: importing libraries"),
        (Report(Stage.AUDITING, 2, 7), "draft: auditing shapes, 2 of 7"),
        (
            Report(Stage.LOADING, 3 << 20, 3 << 30),
            "draft: loading weights, 3.00 MiB of 3.00 GiB",
        ),
    ],
)
def test_what_an_operator_reads(report: Report, words: str) -> None:
    assert said("draft", report) == words


def test_plain_lines_tell_each_stage_once_and_one_that_lasts_now_and_then() -> None:
    output, clock = io.StringIO(), Clock()
    lines = Lines(output, clock)
    lines.show("target", Report(Stage.IMPORTING))
    for second in range(1, 9):
        clock.seconds = second
        lines.show("target", Report(Stage.AUDITING, second, 9))
        lines.show("draft", Report(Stage.TIMING))
    clock.seconds = 10
    lines.ready("target")
    lines.close()
    assert output.getvalue().splitlines() == [
        "target: importing libraries",
        "target: auditing shapes, 1 of 9",
        "draft: timing steps",
        "target: auditing shapes, 6 of 9",
        "draft: timing steps",
        "target: ready after 10.0 s: importing libraries 1.0, auditing shapes 9.0",
    ]


def test_a_child_tells_its_parent_each_stage_and_its_progress_now_and_then() -> None:
    output, clock = io.StringIO(), Clock()
    child = ToParent(output, clock)
    for done in range(30):
        clock.seconds = done / 32
        child.show("target", Report(Stage.LOADING, done, 30))
    child.show("target", Report(Stage.PACKING, 0, 30))
    child.ready("target")
    told = [read(line) for line in output.getvalue().splitlines()]
    assert told == [
        *(("target", Report(Stage.LOADING, done, 30)) for done in range(0, 30, 4)),
        ("target", Report(Stage.PACKING, 0, 30)),
    ]


class Terminal(io.StringIO):
    """An output that says to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_start_is_shown_where_its_output_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(**variables: str) -> type:
        return type(new_display(Clock(), variables))

    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert kind(TERM="xterm") is Lines
    monkeypatch.setattr("sys.stderr", Terminal())
    assert kind(TERM="xterm") is Bar
    assert kind(TERM="dumb") is Lines
    assert kind() is Lines
    assert kind(TERM="xterm", **{VARIABLE: "target"}) is ToParent
    assert kind(TERM="xterm", **{VARIABLE: ""}) is Bar
    assert kind(TERM="xterm", RANK="0") is Bar
    assert kind(TERM="xterm", RANK="1") is Nowhere


def test_a_bar_rewrites_its_line_and_is_gone_in_the_end() -> None:
    output = Terminal()
    bar = Bar(output, Clock())
    bar.close()
    assert output.getvalue() == ""
    bar.show("target", Report(Stage.AUDITING, 2, 7))
    bar.close()
    drawn = output.getvalue()
    assert "target: auditing shapes" in drawn
    assert "2 of 7" in drawn
    assert drawn.endswith("\x1b[2K"), "the line is erased"
    assert "\x1b[?25l" not in drawn, "the cursor is not hidden"
