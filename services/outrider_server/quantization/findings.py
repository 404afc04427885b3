"""All that a report says, before it is put into words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class Row:
    """One method, or the original."""

    method: str
    size_bytes: int
    perplexity: float | None
    """None where the model gave no finite number."""
    mean_error: float
    """Over the layers, relative, Frobenius."""
    agreement: dict[float, float]
    """By temperature: share of positions at which it draws the target's token; 0 is greedy."""
    same_as_original: float
    """Share of positions at which it prefers the token that the unquantized model prefers."""
    errors: dict[str, float]
    """By layer."""
    histogram: str | None
    """The image, relative to the report."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """One quantized layer of the model, and the activations that it met."""

    outputs: int
    inputs: int
    outlier_columns: int
    """Columns of its input in which some activation reached the threshold."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The report's content."""

    model: str
    target: str | None
    """The model that the agreement is with; None for the unquantized model itself."""
    text: str
    text_tokens: int
    windows: int
    positions: int
    dtype: str
    machine: str
    layers: dict[str, LayerShape]
    rows: tuple[Row, ...]
    """The original first."""

    def as_json(self) -> dict[str, Any]:
        """Plain objects; temperatures become text."""
        content = asdict(self)
        for row in content["rows"]:
            row["agreement"] = {f"{key:g}": share for key, share in row["agreement"].items()}
        return content
