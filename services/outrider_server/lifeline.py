"""The bond of a process to the one that started it: a child ends when its parent is gone, killed or not.

A child's standard input is a pipe that nobody writes to. Its other end is the parent's alone, so the kernel
closes it with the parent, whatever ended that. Owns how processes of this program are started; does not know
what they do.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "OUTRIDER_LIFELINE"
"""Says to a child that its standard input is its lifeline. Its value is a folder that a killed parent leaves
behind, or nothing."""
GRACE_SECONDS = 0.5
"""A rank, which hears of rank 0 by its link too, may say so before it ends."""


def python(module: str, *arguments: str) -> list[str]:
    """The command of a module; -P keeps what lies in the working directory off its path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def bound(
    variables: Mapping[str, str] | None = None, scratch: Path | None = None
) -> dict[str, Any]:
    """What `subprocess` has to be told of a child, with these variables added to its environment.

    It gets a group of its own: a terminal's interrupt reaches the parent alone, and a child ends with all it
    started. The children of a parent that was killed remove its `scratch` folder.
    """
    own = {VARIABLE: "" if scratch is None else str(scratch)}
    return {
        "stdin": subprocess.PIPE,
        "start_new_session": True,
        "env": {**os.environ, **(variables or {}), **own},
    }


def hold() -> None:
    """Ends this process and its group with its parent from now on; nothing where `bound` was not used."""
    scratch = os.environ.pop(VARIABLE, None)
    if scratch is not None:
        threading.Thread(
            target=_end_with_parent, args=(scratch,), name="outrider-lifeline", daemon=True
        ).start()


def _end_with_parent(scratch: str) -> None:
    while os.read(0, 1):
        pass
    time.sleep(GRACE_SECONDS)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(os.getpgrp(), signal.SIGKILL)
