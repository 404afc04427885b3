"""The command: bad input ends in one line and status 2, and a report holds what was measured."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands_for_tests import Run, refusal
from outrider_server.core.errors import StartupError
from outrider_server.models import DRAFT_FOLDER, TARGET_FOLDER
from outrider_server.quantization.methods import OWN
from outrider_server.quantization.settings import METHODS, OWN_METHODS, QuantizeSettings

from tests.models_for_tests import save_folder

from .subjects import gpt2_folder, split_words, write_text


def run_quantize(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in a folder, on one thread."""
    command = [sys.executable, "-m", "outrider_server", "quantize", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models and texts, good and bad."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("model", "other"):
        (folder / name).mkdir()
    gpt2_folder(folder / "model")
    split_words(folder / "model")
    save_folder(folder / "other", vocabulary_size=31)
    for name in ("bare", "noweights", "pickled"):
        (folder / name).mkdir()
    for name in ("noweights", "pickled"):
        for file in ("config.json", "tokenizer.json"):
            (folder / name / file).write_bytes((folder / "model" / file).read_bytes())
    (folder / "pickled" / "pytorch_model.bin").write_bytes(b"")
    (folder / "notokens").mkdir()
    (folder / "notokens" / "config.json").write_text("{}")
    write_text(folder / "text", 400)
    write_text(folder / "short", 20)
    (folder / "empty").write_text("")
    (folder / "binary").write_bytes(bytes([0xFF, 0xFE, 0xFF]) * 100)
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "missing"], "model folder missing does not exist or has no config.json"),
        (["--model", "bare"], "model folder bare does not exist or has no config.json"),
        (["--model", "model"], "--text is needed: a UTF-8 file"),
        (["--model", "model", "--text", "missing"], "the text missing is no file"),
        (["--model", "model", "--text", "bare"], "the text bare is no file"),
        (["--model", "model", "--text", "empty"], "the text empty is empty"),
        (["--model", "model", "--text", "binary"], "the text binary is not UTF-8"),
        (
            ["--model", "model", "--text", "short"],
            "the text (short) has 20 tokens; at least 256 are needed",
        ),
        (["--model", "notokens", "--text", "text"], "model folder notokens has no tokenizer.json"),
        (
            ["--model", "noweights", "--text", "text"],
            "model folder noweights has no safetensors weights",
        ),
        (
            ["--model", "pickled", "--text", "text"],
            "model folder pickled has pickle weights only",
        ),
        (["--target", "missing"], "model folder missing does not exist or has no config.json"),
        (
            ["--model", "model", "--text", "text", "--target", "other"],
            "the target other has another vocabulary than model",
        ),
        (["--methods", "int9"], "no such method: int9; there are absmax, zero-point"),
        (["--methods", ","], "no such method: none given; there are absmax, zero-point"),
        (["--tokens", "10"], "tokens must be 256 to 16777216"),
        (["--dtype", "int8"], "dtype must be one of auto, float32"),
        (["--device", "nowhere"], "device nowhere cannot be used on this machine"),
        (["--output", "/proc/outrider"], "the output /proc/outrider cannot be written"),
        (["--output", "text"], "the output text cannot be written"),
    ],
)
def test_bad_input_ends_in_one_line(
    arguments: list[str],
    message: str,
    place: Path,
    run_command: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(place)
    outcome = run_command("quantize", *arguments)
    assert refusal(outcome).startswith(f"outrider-server: {message}")


def test_a_process_ends_after_the_one_line_of_a_refusal(place: Path) -> None:
    """The latest one: everything is imported by then."""
    outcome = run_quantize("--model=model", "--text=text", "--target=other", folder=place)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("outrider-server: the target other has another vocabulary")


@pytest.mark.parametrize(
    ("package", "extra"),
    [("bitsandbytes", "quantization"), ("accelerate", "quantization"), ("matplotlib", "bench")],
)
def test_a_missing_package_is_named_with_what_to_install(
    package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> object:
        return None if name == package else object()

    monkeypatch.setattr(importlib.util, "find_spec", found)
    with pytest.raises(StartupError, match=rf"{package} is missing: .*outrider\[{extra}\]"):
        QuantizeSettings(model=TARGET_FOLDER, output=tmp_path)


def test_own_methods_do_without_bitsandbytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = {"matplotlib": object()}
    monkeypatch.setattr(importlib.util, "find_spec", present.get)
    settings = QuantizeSettings(model=DRAFT_FOLDER, output=tmp_path, methods=OWN_METHODS)
    assert set(settings.methods) == set(OWN)


def test_a_report_holds_what_was_measured(place: Path) -> None:
    arguments = ["--model", "model", "--text", "text", "--output", "made/here"]
    outcome = run_quantize(*arguments, "--methods", "absmax-row,absmax", folder=place)
    assert outcome.returncode == 0, outcome.stderr
    assert "Traceback" not in outcome.stderr
    content = json.loads((place / "made/here/report.json").read_text())
    assert content["model"] == "model"
    assert content["target"] is None
    assert content["text_tokens"] == 400
    assert (content["windows"], content["positions"]) == (7, 393)
    assert [row["method"] for row in content["rows"]] == ["original", "absmax-row", "absmax"]
    original, by_row, whole = content["rows"]
    assert original["agreement"] == {"0": 1.0, "0.7": 1.0, "1": 1.0}
    assert by_row["mean_error"] < whole["mean_error"]
    assert whole["size_bytes"] < by_row["size_bytes"] < original["size_bytes"]
    page = (place / "made/here/report.md").read_text()
    assert "| transformer.h.1.mlp.c_proj | 64 x 256 |" in page
    assert "| bf16 | 1 | 8 | 7 |" in page
    assert f"| {original['perplexity']:.3f} |" in page
    assert "agrees at 0 " not in page
    for row in (by_row, whole):
        assert f"![{row['method']}]({row['histogram']})" in page
        image = (place / "made/here" / row["histogram"]).read_bytes()
        assert image.startswith(b"\x89PNG")


def test_a_draft_is_compared_with_the_target_that_is_given(place: Path) -> None:
    text = place / "source"
    text.write_text("import os\n\n\ndef work(path):\n    return os.path.join(path, 'a')\n" * 30)
    arguments = ["--model", str(DRAFT_FOLDER), "--target", str(TARGET_FOLDER), "--text", str(text)]
    arguments += ["--methods", "zero-point", "--output", "drafted"]
    outcome = run_quantize(*arguments, folder=place)
    assert outcome.returncode == 0, outcome.stderr
    content = json.loads((place / "drafted/report.json").read_text())
    original, quantized = content["rows"]
    assert content["target"] == "target"
    assert original["same_as_original"] == 1.0
    assert 0 < original["agreement"]["0"] < 1
    assert quantized["same_as_original"] > quantized["agreement"]["0"]
    assert "agrees at 0 " in (place / "drafted/report.md").read_text()


def test_the_library_runs_quietly(place: Path) -> None:
    pytest.importorskip("bitsandbytes")
    arguments = ["--model", "model", "--text", "text", "--methods", "int8,nf4,fp4"]
    outcome = run_quantize(*arguments, "--output", "library", folder=place)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr.splitlines()[1:] == [
        f"quantizes with {name}" for name in ("int8", "nf4", "fp4")
    ]


def test_every_method_is_named_once() -> None:
    assert len(set(METHODS)) == len(METHODS) == 7
