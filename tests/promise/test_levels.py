"""The promise on a CPU that has less: each level has bits of its own, and keeps them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from models_for_tests import needs_kernels
from outrider_server.engine.kernels.levels import VARIABLE, machine_levels


@needs_kernels
def test_tokens_are_the_targets_and_all_shapes_alike_at_this_machines_lowest_level() -> None:
    """24 sequences, in a process whose kernels are of that level."""
    level = machine_levels()[-1]
    paths = [str(Path(__file__).parents[1]), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-m", "promise.at_level"],
        env=os.environ | {VARIABLE: level.name, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    wanted = {"level": level.name, "packed": True, "interchangeable": True, "compared": 24}
    assert found == wanted
