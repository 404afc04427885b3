"""What a run of the benchmark is asked for, checked before any work is done."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from outrider_server.core.errors import require

from .model_folder import check_model_folder
from .peer_options import PeerOptions

SUITES = ("decode", "first-token", "load", "network", "prefill", "turns", "step")
DRAFTLESS = ("decode", "first-token", "load", "prefill", "turns")
"""Suites that can do without a draft."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """Frozen settings of one run. Raises StartupError for what cannot be run."""

    target: Path
    draft: Path | None
    output: Path
    peers: PeerOptions
    suites: tuple[str, ...] = SUITES
    widen: float = 0.0
    """Million weights to widen the target to; 0 leaves it as it is."""
    tokens: int = 256
    prompts: int = 5
    repeats: int = 5
    temperatures: tuple[float, ...] = (0.7, 0.0)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.suites) - set(SUITES))
        require(not unknown, f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}")
        for folder in filter(None, (self.target, self.draft)):
            check_model_folder(folder)
        lost = sorted(set(self.suites) - set(DRAFTLESS)) if self.draft is None else []
        require(not lost, f"without a draft there is no {', '.join(lost)}")
        require(self.widen >= 0, "widen must not be negative")
        require(2 <= self.tokens <= 4096, "tokens must be 2 to 4096")
        require(self.prompts >= 1, "prompts must be at least 1")
        require(self.repeats >= 1, "repeats must be at least 1")
        require(bool(self.temperatures), "at least one temperature is needed")
        require(
            all(0 <= temperature <= 100 for temperature in self.temperatures),
            "temperature must be 0 to 100",
        )
        require(
            importlib.util.find_spec("matplotlib") is not None,
            "the package matplotlib is missing: pip install 'outrider[bench]'",
        )
