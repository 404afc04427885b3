"""What was found, kept between runs: `docs/conformance.json`, from which the page is written.

A result counts as long as the same configuration is asked for, of the same versions of the libraries. It does
not know of changes in the engine: after one that matters, everything is run again.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from outrider_bench.machine import machine_facts

from .architectures import Architecture
from .outcome import PROMPTS, Outcome, bfloat16_ratio
from .subject import Setting

RESULTS = Path(__file__).parents[2] / "docs" / "conformance.json"
PACKAGES = ("torch", "transformers")
DIGEST_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the page, as it stands there, and what it was found with."""

    error: str
    greedy: str
    promise: str
    turns: str
    kernels: str
    kernel_note: str
    """Why torch's kernels ran where the engine was asked for its own."""
    configuration: str
    """Digest of the architecture's configuration."""
    versions: str
    machine: str


Results = dict[tuple[str, str], Result]
"""By the names of architecture and setting."""


def make_result(architecture: Architecture, setting: Setting, outcome: Outcome) -> Result:
    """The row of an outcome that was found here and now."""
    error = f"{outcome.error:.1e}"
    if setting.dtype != "float32":
        error += f" ({outcome.bound / bfloat16_ratio(architecture):.1e})"
    if outcome.error > outcome.bound:
        error = f"**{error}**"
    greedy = "-"
    if outcome.greedy_differences is not None:
        greedy = f"{PROMPTS - outcome.greedy_differences} of {PROMPTS}"
    kernels = "own" if outcome.packed else "torch"
    if setting.compile_mode == "on" and outcome.compile_note:
        kernels += f"; eager: {outcome.compile_note}"
    return Result(
        error=error,
        greedy=greedy,
        promise=f"{outcome.promise.differences} of {outcome.promise.sequences} differ",
        turns="differ" if outcome.turns_differ else "equal",
        kernels=kernels,
        kernel_note=outcome.kernel_note if setting.compile_mode == "on" else "",
        configuration=digest_of(architecture),
        versions=here()[0],
        machine=here()[1],
    )


def digest_of(architecture: Architecture) -> str:
    """Hex digest of the configuration."""
    described = architecture.make().to_json_string(use_diff=False)
    return hashlib.sha256(described.encode()).hexdigest()[:DIGEST_CHARACTERS]


@cache
def here() -> tuple[str, str]:
    """Versions of the libraries, and the machine."""
    facts = machine_facts()
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in PACKAGES)
    return versions, f"{facts['processor']}, {facts['cores']} cores"


def counts(result: Result | None, architecture: Architecture) -> bool:
    """Whether a kept result stands for the architecture as it is asked for today."""
    return (
        result is not None
        and result.versions == here()[0]
        and result.configuration == digest_of(architecture)
    )


def read_results(path: Path = RESULTS) -> Results:
    """What earlier runs kept; empty where there is nothing."""
    if not path.is_file():
        return {}
    return {
        (name, setting): Result(**row)
        for setting, rows in json.loads(path.read_text()).items()
        for name, row in rows.items()
    }


def write_results(results: Results, path: Path = RESULTS) -> None:
    """Keeps the results; a run that is ended early leaves the file of before or that of after."""
    by_setting: dict[str, dict[str, object]] = {}
    for (name, setting), result in results.items():
        by_setting.setdefault(setting, {})[name] = asdict(result)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(by_setting, indent=1, sort_keys=True) + "\n")
    os.replace(draft, path)
