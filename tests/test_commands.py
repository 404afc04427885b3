"""Both commands on terminals of every kind: nothing but their own lines, whatever the output can take."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from outrider_server.commands import cli

NAMES = {"outrider": "outrider", "outrider_server": "outrider-server"}
PRINTING = """
from outrider import ChatMessage
from outrider.cli.report import json_line
from outrider.cli.terminal import usable_output
with usable_output("test"):
    print("caf\\u00e9 \\u4e2d")
    print(json_line(ChatMessage("user", "caf\\u00e9")))
"""
IMPORTING = """
import builtins, os, sys
import_module, seen = builtins.__import__, []
def watched(name, *rest, **named):
    if name == "grpc":
        seen.append(os.environ.get("GRPC_VERBOSITY"))
    return import_module(name, *rest, **named)
builtins.__import__ = watched
sys.argv = ["command", "--version"]
from {module}.__main__ import main
try:
    main()
finally:
    print(seen[0])
"""


@pytest.mark.parametrize("module", NAMES)
@pytest.mark.parametrize("wanted", ["", "ERROR"])
def test_grpc_is_imported_with_its_log_off_unless_the_user_wants_it(
    module: str, wanted: str
) -> None:
    variables = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    outcome = subprocess.run(
        [sys.executable, "-c", IMPORTING.format(module=module)],
        env=variables | ({"GRPC_VERBOSITY": wanted} if wanted else {}),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert outcome.stdout.splitlines()[-1] == (wanted or "NONE")


@pytest.mark.parametrize("module", NAMES)
def test_a_module_is_its_command(module: str) -> None:
    outcome = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True)
    assert outcome.stdout.decode() == f"{NAMES[module]} {version('outrider')}\n"
    assert (outcome.returncode, outcome.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["up", "--target", ""], "--target"),
        (["up", "--draft="], "--draft"),
        (["target", "--model", ""], "--model"),
        (["session", "--target="], "--target"),
        (["session", "--ledger", "", "--listen", ""], "--ledger"),
        (["session", "--listen", ""], "--listen"),
        (["quantize", ""], "an argument"),
    ],
)
def test_an_empty_value_is_refused_by_name(
    arguments: list[str],
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "set_up_logs", lambda: None)
    monkeypatch.setattr(sys, "argv", ["outrider-server", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    told = f"outrider-server: {name} is empty; give it a value, or leave it out\n"
    assert capsys.readouterr() == ("", told)


def test_the_server_runs_nothing_that_lies_in_the_working_directory(tmp_path: Path) -> None:
    for name in ("random", "typer", "grpc", "uvloop", "subprocess"):
        (tmp_path / f"{name}.py").write_text("print('ran')")
    outcome = subprocess.run(
        [sys.executable, "-m", "outrider_server", "--version"], cwd=tmp_path, capture_output=True
    )
    assert outcome.stdout.startswith(b"outrider-server ")
    assert (outcome.returncode, outcome.stderr) == (0, b"")


@pytest.mark.parametrize("module", NAMES)
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_output_that_cannot_be_written_is_told_in_one_line(module: str) -> None:
    with open("/dev/full", "w") as full:
        outcome = subprocess.run(
            [sys.executable, "-m", module, "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert outcome.returncode == 1
    assert outcome.stderr == (
        f"{NAMES[module]}: standard output cannot be written to: No space left on device\n"
    )


def test_output_that_nobody_reads_ends_a_command_without_a_word() -> None:
    read, write = os.pipe()
    os.close(read)
    outcome = subprocess.run(
        [sys.executable, "-m", "outrider", "--help"], stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (outcome.returncode, outcome.stderr) == (1, b"")


@pytest.mark.parametrize(("encoding", "text"), [("ascii", "caf? ?"), ("cp1252", "caf\xe9 ?")])
def test_a_character_that_the_terminal_lacks_is_replaced_and_escaped_in_json(
    encoding: str, text: str
) -> None:
    outcome = subprocess.run(
        [sys.executable, "-c", PRINTING],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    plain, escaped = outcome.stdout.decode(encoding).splitlines()
    assert plain == text
    assert escaped.isascii()
    assert json.loads(escaped)["content"] == "caf\xe9"


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--target=no-such-folder"],
        ["plan", "--draft=no-such-folder"],
        ["plan", "--device=nope"],
        ["target", "--model=no-such-folder", "--listen=127.0.0.1:0"],
        ["up", "--device=nope"],
        ["up", "--draft=no-such-folder", "--listen=127.0.0.1:0"],
    ],
    ids=" ".join,
)
def test_what_one_sees_at_once_is_refused_in_one_sentence_and_nothing_is_imported_for_it(
    arguments: list[str], tmp_path: Path
) -> None:
    outcome = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "outrider_server", *arguments],
        env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    lines = outcome.stderr.splitlines()
    told = [line for line in lines if not line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in lines} & {"torch", "transformers"}
    assert (outcome.returncode, len(told), imported) == (2, 1, set()), told
    assert told[0].startswith("outrider-server: ")
    assert any(word in told[0] for word in ("no-such-folder", "device nope"))


WATCHING_TORCH = """
import asyncio, os, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Watch())
from outrider_server.commands import wiring
from outrider_server.config import DraftConfig, TargetConfig
asyncio.run(wiring.run_{name}({name_of_config}(listen="127.0.0.1:0")))
"""


@pytest.mark.parametrize("name", ["target", "draft"])
def test_how_long_torchs_threads_wait_is_set_before_torch_is_loaded(name: str) -> None:
    """It reads the variable once."""
    program = WATCHING_TORCH.format(name=name, name_of_config=f"{name.capitalize()}Config")
    variables = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    outcome = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True
    )
    assert outcome.stdout == "20000\n", outcome.stderr
