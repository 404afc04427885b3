"""What a plan is asked for, checked before anything is read."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ..config import TargetConfig
from ..core.errors import require
from ..engine.options import EngineOptions

LARGEST_CONTEXT = 1 << 24


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """Frozen settings of one plan. Raises StartupError for what cannot be planned."""

    target: EngineOptions
    draft: EngineOptions | None = None
    memory_bytes: int | None = None
    bandwidth: float | None = None
    """Bytes a second."""
    agreement: float = 0.8
    chart: Path | None = None

    def __post_init__(self) -> None:
        TargetConfig(engine=self.target)  # so that a plan never promises what a service refuses
        require(
            self.target.max_context_tokens <= LARGEST_CONTEXT,
            f"max context tokens must be at most {LARGEST_CONTEXT}",
        )
        require(0 <= self.agreement <= 1, "agreement must be 0 to 1")
        if self.chart is not None:
            require(self.chart.suffix.lower() == ".png", f"the chart {self.chart} must end in .png")
            require(
                self.chart.parent.is_dir(), f"the chart's folder {self.chart.parent} does not exist"
            )
            require(
                importlib.util.find_spec("matplotlib") is not None,
                "the package matplotlib is missing: pip install 'outrider[bench]'",
            )
