"""The command itself: its table, its JSON, its chart; bad input ends in one line and status 2."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from commands_for_tests import Run
from outrider_server.engine.options import COMPILE_MODES, DTYPES, QUANTIZATIONS
from outrider_server.models import DRAFT_FOLDER

from .configs import BLOOM, MISTRAL_7B, write_config


@pytest.fixture
def run_plan(folder: Path, monkeypatch: pytest.MonkeyPatch, run_command: Run) -> Run:
    """The command in that folder and on a wide terminal."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")
    return partial(run_command, "plan")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where commands run: folders of good and bad configurations."""
    contents: dict[str, dict[str, Any]] = {
        "mistral": MISTRAL_7B,
        "bloom": BLOOM,
        "unknown": {"model_type": "perceptron"},
        "unnamed": {"hidden_size": 4},
        "t5": {"model_type": "t5"},
        "image": {"model_type": "vit"},
        "mamba": {"model_type": "mamba"},
        "uneven": MISTRAL_7B | {"num_hidden_layers": "many"},
    }
    for name, content in contents.items():
        write_config(tmp_path / name, content)
    (tmp_path / "empty").mkdir()
    for name, text in (("broken", "{"), ("list", "[]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "missing"], "missing does not exist; name a model's folder"),
        (["--target", "empty"], "model folder empty has no config.json"),
        (["--target", "broken"], "broken/config.json is not valid JSON"),
        (["--target", "list"], "list/config.json does not hold a JSON object"),
        (["--target", "unnamed"], "unnamed/config.json names no model_type"),
        (["--target", "unknown"], "unknown/config.json names the architecture 'perceptron'"),
        (["--target", "t5"], "t5/config.json is an encoder-decoder; use a causal model"),
        (["--target", "image"], "image/config.json is a vit, which is no causal language model"),
        (
            ["--target", "mamba"],
            "mamba/config.json has layers of kind linear_attention; the slot cache",
        ),
        (["--target", "uneven"], "uneven/config.json cannot be used: "),
        (["--target", "bloom"], "bloom names no longest context; set --max-context-tokens"),
        (["--draft", "empty"], "model folder empty has no config.json"),
        (
            ["--target", "mistral", "--max-context-tokens", "40000"],
            "a context of 40000 tokens is longer than the 32768 positions of mistral",
        ),
        (["--max-context-tokens", "-1"], "max context tokens must not be negative"),
        (["--memory", "80"], "memory '80' is no size above 0; write it as 80GiB"),
        (["--memory", "9" * 320 + "GiB"], "memory '999"),
        (["--bandwidth", "9" * 320 + "GB/s"], "bandwidth '999"),
        (["--bandwidth", "3TB"], "bandwidth '3TB' is no rate above 0; write it as 3.35TB/s"),
        (["--agreement", "1.5"], "agreement must be 0 to 1"),
        (["--device", "abacus"], "device abacus is no torch device"),
        (["--slots", "0"], "slots must be 1 to 4096"),
        (["--rows", "9"], "rows must be 1 to the 8 slots"),
        (["--width", "12"], "the target's width must be a multiple of 8"),
        (["--prefill-width", "9"], "prefill width must be a multiple of 8"),
        (["--chart", "plan.jpg"], "the chart plan.jpg must end in .png"),
        (["--chart", "no/plan.png"], "the chart's folder no does not exist"),
    ],
)
def test_bad_input_ends_in_one_line(arguments: list[str], message: str, run_plan: Run) -> None:
    outcome = run_plan(*arguments)
    assert outcome.status == 2
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"outrider-server: {message}")
    assert outcome.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (["--dtype", "int4"], DTYPES),
        (["--draft-dtype", "int4"], DTYPES),
        (["--quantization", "int4"], QUANTIZATIONS),
        (["--draft-quantization", "x"], QUANTIZATIONS),
        (["--compile", "never"], COMPILE_MODES),
    ],
)
def test_what_is_no_choice_names_the_choices(
    arguments: list[str], choices: tuple[str, ...], run_plan: Run
) -> None:
    outcome = run_plan(*arguments)
    assert (outcome.status, outcome.stdout) == (2, "")
    assert f"Invalid value for '{arguments[0]}'" in outcome.stderr
    assert all(f"'{choice}'" in outcome.stderr for choice in choices)


@pytest.mark.parametrize("name", ["unknown", "mamba"])
def test_a_process_of_its_own_says_no_more_than_that(name: str, folder: Path) -> None:
    """Libraries write warnings of their own where nobody captures them."""
    command = [sys.executable, "-m", "outrider_server", "plan", "--target", name]
    outcome = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"outrider-server: {name}/config.json")


def test_the_json_has_every_number_of_target_draft_fit_and_speed(run_plan: Run) -> None:
    outcome = run_plan(
        "--target=mistral/config.json",
        f"--draft={DRAFT_FOLDER}",
        "--device=cuda",
        "--max-context-tokens=1024",
        "--slots=4",
        "--memory=16GiB",
        "--bandwidth=3.35TB/s",
        "--agreement=0.7",
        "--json",
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    (line,) = outcome.stdout.splitlines()
    made = json.loads(line)
    target, draft = made["target"], made["draft"]
    assert target["parameters"] == 7_241_732_096
    assert target["cache_token_bytes"] == 2 * 32 * 8 * 128 * 2
    assert target["cache_bytes"] == 5 * 1152 * 131_072
    assert target["fit"]["fits"]
    assert target["fit"]["largest_context_tokens"] > 1024
    assert made["target_with_draft_beside"]["largest_slots"] <= target["fit"]["largest_slots"]
    assert draft["engine"]["width"] == 2
    assert target["roofline"]["tokens_per_second"] == pytest.approx(
        3.35e12 / (2 * (7_241_732_096 - 32000 * 4096) + 1024 * 131_072)
    )
    assert made["break_even_round_trip_ms"] > 0
    parts = ("kernel_bytes", "cache_bytes", "table_bytes", "workspace_bytes")
    total = target["weights"]["total_bytes"] + sum(target[part] for part in parts)
    assert target["total_bytes"] == total


def test_the_options_of_the_draft_are_the_drafts_alone(run_plan: Run) -> None:
    outcome = run_plan(
        f"--draft={DRAFT_FOLDER}",
        "--dtype=float32",
        "--draft-dtype=float16",
        "--quantization=nf4",
        "--draft-quantization=int8",
        "--json",
    )
    made = json.loads(outcome.stdout)
    engines = [made[name]["engine"] for name in ("target", "draft")]
    assert [engine["dtype"] for engine in engines] == ["float32", "float16"]
    assert [engine["quantization"] for engine in engines] == ["nf4", "int8"]


def test_the_table_shows_what_is_asked_and_no_more(run_plan: Run) -> None:
    plain = run_plan()
    assert plain.status == 0, plain.stderr
    assert "9,441,408" in plain.stdout
    assert "workspace of a step" in plain.stdout
    assert "tokens/s" not in plain.stdout
    assert "fits into" not in plain.stdout
    full = run_plan(f"--draft={DRAFT_FOLDER}", "--memory=1GiB", "--bandwidth=40GB/s")
    assert full.status == 0, full.stderr
    for words in ("fits into 1.00 GiB", "most slots", "draft pays up to", "tokens/s"):
        assert words in full.stdout


def test_a_chart_is_drawn_where_it_is_asked_for(folder: Path, run_plan: Run) -> None:
    outcome = run_plan("--chart=plan.png", "--memory=1GiB", "--json")
    assert outcome.status == 0, outcome.stderr
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")
    json.loads(outcome.stdout)
    assert run_plan().status == 0
    assert [path.name for path in folder.glob("*.png")] == ["plan.png"]
