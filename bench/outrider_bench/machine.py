"""What the figures were measured on: processor, versions, command line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from outrider_server.cpu import cpu_fact, cpu_flags

FLAGS = (
    *("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "i8mm", "bf16"),
)
"""What tells CPUs apart in what kernels can use, as Linux names it."""
PACKAGES = ("outrider", "torch", "transformers", "grpcio", "tokenizers")


def machine_facts() -> dict[str, Any]:
    """Names and numbers for the report's caption."""
    return {
        "processor": cpu_fact("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in cpu_flags()],
        "pinned_level": os.environ.get("OUTRIDER_ISA", ""),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "command": " ".join(["outrider-server", *sys.argv[1:]]),
    }


def caption(facts: dict[str, Any]) -> str:
    """The facts in one line."""
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    flags = " ".join(facts["flags"]) or "flags unknown"
    pinned = f", pinned to {facts['pinned_level']}" if facts["pinned_level"] else ""
    cpu = f"{facts['processor']} ({flags}{pinned}), {facts['cores']} cores"
    return f"{cpu}; {versions}; {facts['command']}"


def resident_bytes(process_id: int) -> int:
    """Resident memory of a process, in bytes. Linux only; 0 elsewhere."""
    status = Path(f"/proc/{process_id}/status")
    if not status.is_file():
        return 0
    for line in status.read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def cpu_seconds(process_id: int) -> float:
    """What a process has used of the processors since its start, in seconds. Linux only; 0 elsewhere."""
    status = Path(f"/proc/{process_id}/stat")
    if not status.is_file():
        return 0.0
    after_name = status.read_text().rpartition(")")[2].split()
    user, system = after_name[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
