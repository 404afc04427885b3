"""Planned bytes beside those of a real engine, which runs in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from outrider_server.planning.config_file import read_config
from outrider_server.planning.counting import count_model
from outrider_server.planning.memory import plan_memory
from outrider_server.planning.shape import engine_shape
from outrider_server.planning.types import MemoryPlan

from .configs import options

REPOSITORY = Path(__file__).resolve().parents[2]
WIDENED_MILLIONS = 110
"""What `outrider-server bench --widen` is given in the documents."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Bytes of an engine; see `measured.py`."""

    weights: int
    cache: int
    tables: int
    greedy: int
    workspace: int
    resident: int

    @property
    def total(self) -> int:
        """What is held between steps, and the most that a step allocates beside it."""
        return self.weights + self.cache + self.tables + self.workspace


@dataclass(frozen=True, slots=True)
class Comparison:
    """One engine, planned and measured."""

    plan: MemoryPlan
    real: Measured

    @property
    def planned_weights(self) -> int:
        """With what packing adds."""
        return self.plan.weights.total_bytes + self.plan.kernel_bytes

    @property
    def ratio(self) -> float:
        """Planned total over measured total."""
        return self.plan.total_bytes / self.real.total


def compare(folder: Path, mode: str, slots: int) -> Comparison:
    """Plans an engine and measures it."""
    return Comparison(planned(folder, mode, slots), measured(folder, mode, slots))


def planned(folder: Path, mode: str, slots: int) -> MemoryPlan:
    """The plan of an engine."""
    sizes = count_model(read_config(folder))
    shape = engine_shape(sizes, options(slots=slots, compile=mode))
    return plan_memory(sizes, shape)


def measured(folder: Path, mode: str, slots: int) -> Measured:
    """The bytes of the same engine."""
    arguments = [sys.executable, "-m", "tests.planning.measured", str(folder), mode, str(slots)]
    outcome = subprocess.run(
        arguments, cwd=REPOSITORY, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stderr
    return Measured(**json.loads(outcome.stdout.splitlines()[-1]))
