"""How a model's folder would have its tokens drawn: the sampling parameters in `generation_config.json`.

Read alone: whether they apply to requests that name none is for the session service to be told.
"""

from __future__ import annotations

import math
from pathlib import Path

from .checkpoint import read_json

FILE = "generation_config.json"
NAMES = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
LARGEST_TOP_K = 2**31 - 1


def read_generation_defaults(folder: Path) -> dict[str, float]:
    """The parameters that the file names, by the names of `SamplingParams`. Their ranges are not checked."""
    content = read_json(folder / FILE)
    found = {name: content[name] for name in NAMES if _is_number(content.get(name))}
    if "top_k" in found:
        found["top_k"] = max(-1, min(int(found["top_k"]), LARGEST_TOP_K))
    if content.get("do_sample") is False:
        found["temperature"] = 0.0
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
