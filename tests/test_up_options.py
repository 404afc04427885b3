"""What `outrider-server up` tells target and draft apart: each model has its own precision and device."""

from __future__ import annotations

import sys

import pytest
from outrider_server.commands import up
from outrider_server.commands.cli import app
from typer.testing import CliRunner

PRECISION = ("--dtype=", "--device=", "--quantization=")


def told(monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[list[str], list[str] | None]:
    """The arguments of precision that target and draft get; None for a draft that is not started."""
    seen: list[tuple[list[str], list[str] | None]] = []

    async def run_up(
        ledger: str, session: list[str], target: list[str], draft: list[str] | None
    ) -> int:
        seen.append((target, draft))
        return 0

    monkeypatch.setattr(up, "run_up", run_up)
    outcome = CliRunner().invoke(app, ["up", *options])
    assert outcome.exit_code == 0, outcome.output
    target, draft = seen[0]
    return precision(target), None if draft is None else precision(draft)


def precision(arguments: list[str]) -> list[str]:
    return sorted(argument for argument in arguments if argument.startswith(PRECISION))


def test_the_draft_takes_dtype_and_device_of_the_target_but_not_its_quantization(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, draft = told(
        monkeypatch, "--dtype=bfloat16", "--device=cuda:0", "--quantization", "nf4"
    )
    assert target == ["--device=cuda:0", "--dtype=bfloat16", "--quantization=nf4"]
    assert draft == ["--device=cuda:0", "--dtype=bfloat16", "--quantization=none"]


def test_the_draft_has_options_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    target, draft = told(
        monkeypatch,
        "--draft-dtype=float32",
        "--draft-device=cpu",
        "--draft-quantization=int8",
        "--device=cuda:1",
    )
    assert target == ["--device=cuda:1", "--dtype=auto", "--quantization=none"]
    assert draft == ["--device=cpu", "--dtype=float32", "--quantization=int8"]
    assert told(monkeypatch, "--draft=none")[1] is None


def test_a_quantization_that_does_not_exist_is_wrong_usage() -> None:
    outcome = CliRunner().invoke(app, ["target", "--quantization=int4"])
    assert outcome.exit_code == 2


def test_ranks_share_the_target_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "PRECISION", ("--tensor-parallel=",))
    assert told(monkeypatch, "--tensor-parallel=2") == (["--tensor-parallel=2"], [])
