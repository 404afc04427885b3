"""Sizes and rates as people write them, in both directions."""

from __future__ import annotations

import contextlib
import re

from ..core.errors import StartupError

_BINARY = {"TiB": 1 << 40, "GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}
_DECIMAL = {"TB": 10**12, "GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1}
_BY_LOWER = {name.lower(): factor for name, factor in (_BINARY | _DECIMAL).items()}
MOST_BYTES = 1 << 60
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([kmgt]?i?b)\s*", re.IGNORECASE)


def parse_bytes(text: str, option: str = "memory") -> int:
    """Bytes of a text such as 80GiB (powers of 1024) or 80GB (powers of 1000). Raises StartupError."""
    found = _SIZE.fullmatch(text)
    factor = _BY_LOWER.get(found.group(2).lower()) if found else None
    value = float(found.group(1)) * factor if found and factor else 0.0
    if value > MOST_BYTES:
        raise StartupError(
            f"{option} {text[:40]!r} is more than any machine has; write it as 80GiB"
        )
    if round(value) < 1:
        raise StartupError(
            f"{option} {text!r} is no size above 0; write it as 80GiB, 80GB or 512MiB"
        )
    return round(value)


def parse_rate(text: str) -> float:
    """Bytes a second of a text such as 3.35TB/s. Raises StartupError."""
    size, slash, second = text.strip().rpartition("/")
    with contextlib.suppress(StartupError):
        if slash and second.strip().lower() == "s":
            return float(parse_bytes(size))
    raise StartupError(f"bandwidth {text!r} is no rate above 0; write it as 3.35TB/s or 900GB/s")


def format_bytes(count: int) -> str:
    """Bytes in the largest binary unit that leaves a whole number before the point."""
    for unit, size in _BINARY.items():
        if abs(count) >= size:
            return f"{count / size:,.2f} {unit}"
    return f"{count} B"
