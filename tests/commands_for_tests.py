"""`outrider-server` without a process of its own, which would import its libraries anew for each test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest
from outrider_server.commands import cli


class Outcome(NamedTuple):
    """What a run of the command left."""

    status: int
    stdout: str
    stderr: str


Run = Callable[..., Outcome]


@pytest.fixture
def run_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Takes the command's arguments."""
    monkeypatch.setattr(cli, "set_up_logs", lambda: None)

    def run(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["outrider-server", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), printed.out, printed.err)

    return run


def refusal(outcome: Outcome) -> str:
    """The one line of a refusal."""
    assert (outcome.status, outcome.stdout) == (2, ""), outcome.stderr
    (line,) = outcome.stderr.splitlines()
    return line
