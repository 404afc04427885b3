"""The command `outrider-server chat-model`: installs the model that is served where none is named."""

from __future__ import annotations

import importlib
import subprocess
import sys

from ..core.errors import ModelRefused, StartupError
from ..models.chat_model import REQUIREMENTS, installed_pair
from ..models.pair import Pair

PIP = ("-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check")
PATIENCE = ("--retries=1", "--timeout=20")
WANTED = (
    "--no-deps",
    "--no-compile",
    "--require-hashes",
    "--force-reinstall",
    "--requirement",
    str(REQUIREMENTS),
)
"""What is there already and passed no check is written anew."""
REASONS = {
    "DO NOT MATCH THE HASHES": "what the package index has of it is another file, by its hash",
    "No matching distribution": "the package index cannot be reached, or does not have it",
    "No module named pip": f"this environment has no pip; install {REQUIREMENTS} into it, "
    "without dependencies",
}
"""What pip says, and what it means here."""
LONGEST_REASON = 200


def chat_model() -> None:
    """Install the chat model, which `up` and `demo` serve where no model is named."""
    print(install().target)


def install(path: list[str] = sys.path) -> Pair:
    """The chat model, installed unless it is there. Raises StartupError where it cannot be."""
    try:
        return installed_pair(path)
    except ModelRefused:
        print("installing the chat model: 93 MB", file=sys.stderr, flush=True)
    outcome = subprocess.run(
        [sys.executable, *PIP, *PATIENCE, *WANTED], capture_output=True, text=True, check=False
    )
    if outcome.returncode:
        raise _refusal(_reason(outcome.stderr))
    importlib.invalidate_caches()
    try:
        return installed_pair(path)
    except ModelRefused as lack:
        raise _refusal(str(lack)) from lack


def _refusal(reason: str) -> StartupError:
    return StartupError(
        f"the chat model cannot be installed, so the bundled pair is used instead: {reason}"
    )


def _reason(errors: str) -> str:
    """Why pip failed, in one line."""
    known = (meaning for said, meaning in REASONS.items() if said in errors)
    last = (errors.strip().splitlines() or ["pip failed"])[-1]
    return next(known, last.removeprefix("ERROR: ")[:LONGEST_REASON])
