"""The benchmarks have one command: it takes what the documents show, and its errors are one line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from commands_for_tests import Run, refusal
from outrider_bench.attention import AttentionSettings, run_kernel
from outrider_bench.attention_kernel import GENERATED, Measured
from outrider_server.commands.cli import app
from outrider_server.models import DRAFT_FOLDER

REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:`| {4})outrider-server (bench\b[^`\n\[|]*)(?=`|\n)")


def documented() -> list[str]:
    """Every `outrider-server bench ...` of the documents but headings, and but those with alternatives."""
    lines = [line for path in DOCUMENTS for line in path.read_text().splitlines(keepends=True)]
    shown = [words for line in lines if line[0] != "#" for words in COMMAND.findall(line)]
    return sorted({words.strip() for words in shown})


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """(full name, command) of every command below one that may have more."""
    if isinstance(command, typer.core.TyperGroup):
        for inner, found in command.commands.items():
            yield from leaves(found, f"{name} {inner}".strip())
    else:
        yield name, command


def called(words: list[str]) -> tuple[str, dict[str, Any]]:
    """The command that `outrider-server WORDS` calls, and with what; fails where it would refuse them."""
    found: list[tuple[str, dict[str, Any]]] = []
    group = typer.main.get_command(app)
    for name, command in leaves(group, ""):
        command.callback = lambda name=name, **options: found.append((name, options))
    group.main(words, prog_name="outrider-server", standalone_mode=False)
    return found[0]


def test_the_documents_show_every_benchmark() -> None:
    shown = {called(words.split())[0] for words in documented() if "--help" not in words}
    benchmarks = {name for name, _ in leaves(typer.main.get_command(app), "") if "bench" in name}
    assert len(benchmarks) == 11
    assert shown == benchmarks


@pytest.mark.parametrize(
    ("words", "suites"),
    [
        ("bench", []),
        ("bench --widen 110", []),
        ("bench decode load --widen 110", ["decode", "load"]),
        ("bench --widen 110 step decode", ["step", "decode"]),
        ("bench speed turns --widen 110", ["turns"]),
    ],
)
def test_suites_need_no_other_name(words: str, suites: list[str]) -> None:
    name, options = called(words.split())
    assert (name, list(options["suites"])) == ("bench speed", suites)
    assert options["widen"] == (110 if "110" in words else 0)


def test_a_ledger_may_be_a_database() -> None:
    name, options = called(["bench", "ledger", "FILE", "postgresql://u@h/d", "--idle", "5"])
    assert (name, options["idle"]) == ("bench ledger", 5)
    assert options["ledgers"] == ["FILE", "postgresql://u@h/d"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("attention --model missing", "model folder missing does not exist"),
        ("attention --widen nan", "widen must be a number of at least 0"),
        ("quantized --draft missing", "model folder missing does not exist"),
        ("ledger /proc/ledger.db", ""),
        ("questions missing", "the questions missing cannot be read"),
        ("questions missing --tokens 0", "tokens must be 1 to 4095"),
        ("questions missing --per-category -1", "per category must not be negative"),
        ("questions missing --temperature -1", "temperature must be 0 to 100"),
        ("questions missing --draft none --llama-cpp .", ". holds no llama-server"),
        ("questions missing --target missing.gguf", "model file missing.gguf does not exist"),
        ("questions missing --target x.gguf --bits 8", "a GGUF file has bits of its own"),
        ("questions missing --without vllm", "there is no peer vllm to leave out"),
        ("from-gguf missing folder", "the file missing does not exist"),
    ],
)
def test_bad_input_ends_in_one_line(
    words: str, message: str, tmp_path: Path, run_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.gguf").touch()
    outcome = run_command("bench", *words.split())
    assert refusal(outcome).startswith(f"outrider-server: {message}")


def test_what_is_not_installed_is_told_in_one_line(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['torch'] = None; sys.argv[1:] = ['bench', 'quantized'];"
        "from outrider_server.__main__ import main; main()"
    )
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert outcome.returncode == 2
    assert outcome.stderr == (
        "outrider-server: the package torch is missing: pip install 'outrider[bench]'\n"
    )


def test_the_module_is_the_command(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("print('ran')")  # nothing in the working directory is run
    outcomes = [
        subprocess.run([sys.executable, *words, "--help"], cwd=tmp_path, capture_output=True)
        for words in (["-m", "outrider_bench"], ["-P", "-m", "outrider_server", "bench"])
    ]
    assert outcomes[0].stdout == outcomes[1].stdout
    assert b"Usage: outrider-server bench" in outcomes[0].stdout
    assert [(each.returncode, each.stderr) for each in outcomes] == [(0, b"")] * 2


def test_an_attention_kernel_is_measured_in_a_process_of_its_own() -> None:
    settings = AttentionSettings(
        model=DRAFT_FOLDER,
        widen=0.0,
        tokens=40,
        dtype="float32",
        device="cpu",
        compile="off",
        threads=1,
        prefill_width=16,
    )
    found = run_kernel(settings, DRAFT_FOLDER, "sdpa")
    assert isinstance(found, Measured)
    assert len(found.tokens) == GENERATED
    refused = run_kernel(settings, DRAFT_FOLDER, "flash")
    assert isinstance(refused, str)
    assert "flash" in refused
