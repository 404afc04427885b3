"""The commands of the page on drafts: the one for the bundled target is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from outrider_server.commands.cli import app

PAGE = Path(__file__).resolve().parents[2] / "docs" / "drafts.md"
FIGURES = re.compile(r"^\| (before|after training) \| (\d\.\d+) \| (\d\.\d+) \|", re.M)


def blocks() -> list[str]:
    """The page's commands."""
    return re.findall(r"```sh\n(.*?)```", PAGE.read_text(), flags=re.S)


def test_every_option_of_the_page_is_one_of_the_commands() -> None:
    found = {option for block in blocks() for option in re.findall(r" (--[a-z-]+)", block)}
    group = typer.main.get_command(app)
    known = {
        option
        for name in ("distill", "up")
        for parameter in group.commands[name].params
        for option in parameter.opts
    }
    assert len(found) >= 6
    assert found <= known


@pytest.mark.processes
def test_the_first_try_makes_a_draft_that_is_better_than_at_its_first_step(tmp_path: Path) -> None:
    (script,) = (block for block in blocks() if "TARGET_FOLDER" in block)
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    outcome = subprocess.run(
        ["bash", "-ec", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": programs, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert "first-draft is ready: held-out agreement" in outcome.stderr
    card = (tmp_path / "first-draft" / "MODEL_CARD.md").read_text()
    found = {name: float(agreement) for name, _, agreement in FIGURES.findall(card)}
    assert found["after training"] > found["before"] + 0.02
