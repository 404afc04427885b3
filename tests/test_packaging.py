"""The SDK as a user installs it: a bare `pip install .` brings no torch and talks to a running server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from outrider_server.commands.up import Child

REPOSITORY = Path(__file__).resolve().parents[1]

GENERATE = """
import sys, outrider
with outrider.Client(sys.argv[1]) as client:
    reply = client.create_session().generate("def fib(n):", max_new_tokens=12, seed=7)
    print("".join(event.text for event in reply) == reply.text, len(reply.tokens))
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "outrider_server", "numpy"}))
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the distribution without extras."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    lock = REPOSITORY / "constraints.txt"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", lock, str(REPOSITORY)]
    outcome = subprocess.run(install, capture_output=True, text=True, check=False)
    if outcome.returncode and "No matching distribution" in outcome.stderr:
        pytest.skip("the package index cannot be reached")
    assert outcome.returncode == 0, outcome.stderr
    return python


def test_a_bare_installation_has_no_model_library(bare_python: Path) -> None:
    listed = subprocess.run(
        [bare_python, "-m", "pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.partition("==")[0].lower() for line in listed.stdout.splitlines()}
    assert "outrider" in names
    assert not names & {"torch", "transformers", "numpy", "tokenizers", "jinja2"}


@pytest.mark.parametrize("package", ["outrider", "outrider_server", "outrider_bench"])
def test_the_distribution_holds_every_package(bare_python: Path, package: str) -> None:
    script = f"import importlib.util as util; print(util.find_spec('{package}.__main__').origin)"
    found = subprocess.run([bare_python, "-P", "-c", script], capture_output=True, text=True)
    assert found.stdout.startswith(str(bare_python.parents[1]))


def test_the_distribution_says_which_chat_model_is_installed(bare_python: Path) -> None:
    script = "from outrider_server.models.chat_model import REQUIREMENTS as told; print(told.read_text())"
    found = subprocess.run([bare_python, "-P", "-c", script], capture_output=True, text=True)
    assert "--hash=sha256:" in found.stdout, found.stderr


@pytest.mark.processes
async def test_a_bare_installation_generates_against_a_running_server(
    bare_python: Path, tmp_path: Path
) -> None:
    server = await Child.start(
        "up",
        ["--bundled", "--listen=127.0.0.1:0", "--slots=1", f"--ledger={tmp_path / 'l.db'}"],
    )
    try:
        address = await server.ready()
        client = await asyncio.create_subprocess_exec(
            bare_python, "-c", GENERATE, address, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await client.communicate()
    finally:
        await server.stop()
    assert output.decode().splitlines() == ["True 12", "[]"]
