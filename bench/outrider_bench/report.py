"""The findings on the console and on disk."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from outrider_server.core.errors import StartupError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .machine import caption
from .results import SuiteResult

RESULTS = "results.json"


def table_of(results: Sequence[SuiteResult], label: str, facts: dict[str, Any]) -> Table:
    """One table of all suites. Spreads are medians, with the quartiles in brackets."""
    table = Table(
        title=f"Outrider bench. {escape(label)}",
        caption=escape(caption(facts)),
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("suite", no_wrap=True)
    table.add_column("what")
    table.add_column("median (quartiles)", justify="right")
    table.add_column("unit")
    table.add_column("note")
    for result in results:
        for line in result.lines:
            cells = (result.name, line.what, line.text(), line.unit, line.note)
            table.add_row(*(escape(cell) for cell in cells))
        for note in result.notes:
            table.add_row(result.name, escape(note), "", "", "")
        table.add_section()
    return table


def prepare_output(folder: Path) -> None:
    """Makes the folder and writes into it once. Raises StartupError where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StartupError(f"the output {folder} cannot be written: {error.strerror}") from error


def write_results(
    folder: Path, results: Sequence[SuiteResult], label: str, facts: dict[str, Any]
) -> Path:
    """Writes everything that was measured as JSON; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RESULTS
    content = {
        "models": label,
        "machine": facts,
        "suites": {result.name: result.as_json() for result in results},
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def write_markdown(folder: Path, name: str, lines: Sequence[str]) -> Path:
    """Writes lines of Markdown as `name`.md; returns the file."""
    path = folder / f"{name}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def print_report(
    console: Console, results: Sequence[SuiteResult], label: str, facts: dict[str, Any]
) -> None:
    """The table, and the verdict on the promise."""
    console.print(table_of(results, label, facts))
    differences = sum(result.differences for result in results)
    verdict = "the same tokens" if not differences else "OTHER TOKENS, which is a defect"
    console.print(f"Outrider's configurations gave {verdict} ({differences} differences).")
