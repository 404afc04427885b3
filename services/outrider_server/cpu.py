"""What Linux says of the first CPU; all of a machine's are taken to be alike."""

from __future__ import annotations

from pathlib import Path


def cpu_flags() -> frozenset[str]:
    """The instructions that it has, as Linux names them; nothing elsewhere."""
    return frozenset(cpu_fact("flags", "Features").split())


def cpu_fact(*names: str) -> str:
    """What is said under one of these names; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")
