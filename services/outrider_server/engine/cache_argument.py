"""The name under which the library's models take their cache."""

from __future__ import annotations

import inspect

from torch import nn


def cache_argument(model: nn.Module) -> str:
    """The argument of the model's `forward`: `cache` since transformers 5.24, `past_key_values` before.

    The signature tells, as models outside the library follow at their own pace.
    """
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"
