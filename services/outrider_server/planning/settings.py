"""What a plan is asked for, checked before anything is read."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from ..config import DRAFT_WIDTH, TargetConfig
from ..core.errors import StartupError
from ..engine.options import DTYPES, EngineOptions
from .types import QUANTIZATIONS, EngineRequest

LARGEST_CONTEXT = 1 << 24


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise StartupError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """Frozen settings of one plan. Raises StartupError for what cannot be planned."""

    target: Path
    request: EngineRequest
    draft: Path | None = None
    draft_dtype: str = "auto"
    draft_quantization: str = "none"
    memory_bytes: int | None = None
    bandwidth: float | None = None
    """Bytes a second."""
    agreement: float = 0.8
    chart: Path | None = None

    def __post_init__(self) -> None:
        request = self.request
        # The services' own checks, so that a plan never promises what they refuse.
        engine = EngineOptions(
            folder=self.target,
            dtype=request.dtype,
            device=request.device,
            slots=request.slots,
            rows=request.rows or request.slots,
            width=request.width,
            prefill_width=request.prefill_width,
            max_context_tokens=request.max_context_tokens,
            compile=request.compile,
        )
        TargetConfig(engine=engine)
        _require(
            request.max_context_tokens <= LARGEST_CONTEXT,
            f"max context tokens must be at most {LARGEST_CONTEXT}",
        )
        _require(
            self.draft_dtype in DTYPES, f"the draft's dtype must be one of {', '.join(DTYPES)}"
        )
        for quantization in (request.quantization, self.draft_quantization):
            _require(
                quantization in QUANTIZATIONS,
                f"quantization must be one of {', '.join(QUANTIZATIONS)}",
            )
        _require(0 <= self.agreement <= 1, "agreement must be 0 to 1")
        if self.chart is not None:
            _require(
                self.chart.suffix.lower() == ".png", f"the chart {self.chart} must end in .png"
            )
            _require(
                self.chart.parent.is_dir(), f"the chart's folder {self.chart.parent} does not exist"
            )
            _require(
                importlib.util.find_spec("matplotlib") is not None,
                "the package matplotlib is missing: pip install 'outrider[bench]'",
            )

    @property
    def draft_request(self) -> EngineRequest:
        """The draft's engine, as `up` starts it beside this target."""
        return EngineRequest(
            dtype=self.draft_dtype,
            quantization=self.draft_quantization,
            device=self.request.device,
            slots=self.request.slots,
            rows=self.request.rows,
            width=DRAFT_WIDTH,
            prefill_width=self.request.prefill_width,
            max_context_tokens=self.request.max_context_tokens,
            compile=self.request.compile,
        )
