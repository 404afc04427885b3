"""Bad input ends in one line and status 2, before any work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from commands_for_tests import Run, refusal
from outrider_bench.peer_options import PeerOptions
from outrider_bench.report import prepare_output
from outrider_bench.run import SUITES as RUNNABLE
from outrider_bench.settings import SUITES, BenchSettings
from outrider_bench.weights import weights_of
from outrider_server.core.errors import StartupError
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "missing"], "model folder missing does not exist"),
        (["--draft", "missing"], "model folder missing does not exist"),
        (["--repeats", "0"], "repeats must be at least 1"),
        (["--prompts", "0"], "prompts must be at least 1"),
        (["--tokens", "1"], "tokens must be 2 to 4096"),
        (["--widen", "-1"], "widen must not be negative"),
        (["--widen", "2"], "the model has"),
        (["--temperature", "-1"], "temperature must be 0 to 100"),
        (["--llama-cpp", "missing"], "the folder missing of llama.cpp does not exist"),
        (["--llama-cpp", "."], ". holds no llama-server"),
        (["--openvino-python", "missing"], "missing is no Python"),
        (["--bits", "5"], "bits must be 16, 8 or 4"),
        (["step", "decode", "--draft", "none"], "without a draft there is no step"),
        (["decode", "speed"], "no such suite: speed"),
        (["--output", "/proc/outrider"], "the output /proc/outrider cannot be written"),
    ],
)
def test_bad_input_ends_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    run_command: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run_command("bench", *arguments)
    assert refusal(outcome).startswith(f"outrider-server: {message}")


def test_a_process_ends_after_the_one_line_of_a_refusal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "outrider_server", "bench", "--widen", "2"]
    outcome = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("outrider-server: the model has")


def test_every_suite_that_is_named_can_run() -> None:
    assert set(RUNNABLE) == set(SUITES)


def test_the_defaults_are_fit_to_run(tmp_path: Path) -> None:
    settings = BenchSettings(
        target=TARGET_FOLDER,
        draft=DRAFT_FOLDER,
        output=tmp_path,
        peers=PeerOptions(weights_of(16)),
    )
    assert settings.suites == SUITES
    assert settings.repeats >= 5


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="cannot be written"):
        prepare_output(tmp_path / "file")


def test_an_output_is_made_with_its_parents_and_left_empty(tmp_path: Path) -> None:
    prepare_output(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
