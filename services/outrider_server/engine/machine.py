"""What of a machine and of the software on it may change a step's bits or speed, as plain facts."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..cpu import cpu_fact, cpu_flags
from .kernels.levels import VARIABLE as LEVEL_VARIABLE

PACKAGES = ("outrider", "torch", "transformers", "bitsandbytes", "flash-attn", "gguf")
COMPILERS = ("g++", "clang++")
VARIABLES = (
    *("ATEN_", "CUBLAS", "DNNL_", "KMP_", "MKL_", "NVIDIA_", "OMP_", "ONEDNN_", "TORCH"),
    LEVEL_VARIABLE,
)
"""How the variables begin that libraries, and the engine's own kernels, read for how they compute."""
PLACES = ("_DIR", "_HOME", "_LOGS")
"""How those of them end that say where something lies."""
SOURCES = (".py", ".cpp", ".h")
DRIVER = Path("/proc/driver/nvidia/version")


def machine_facts(device: torch.device, variables: Mapping[str, str]) -> dict[str, str]:
    """The facts of this machine, of its libraries, and of the process's environment."""
    named = {f"version of {name}": _version(name) for name in PACKAGES}
    compilers = {f"compiler {name}": _file(shutil.which(name)) for name in COMPILERS}
    read = {
        name: value
        for name, value in sorted(variables.items())
        if name.startswith(VARIABLES) and not name.endswith(PLACES)
    }
    return {
        **_device_facts(device),
        **named,
        **compilers,
        **read,
        "python": platform.python_version(),
        "torch's build": torch.__config__.show(),
        "engine's sources": _sources_digest(),
    }


def _device_facts(device: torch.device) -> dict[str, str]:
    facts = {
        "device": str(device),
        "cpu": cpu_fact("model name") or f"{platform.machine()} {platform.processor()}",
        "cpu flags": " ".join(sorted(cpu_flags())),
        "threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        facts["gpu"] = f"{gpu.name} {gpu.major}.{gpu.minor} {gpu.total_memory}"
        facts["driver"] = DRIVER.read_text() if DRIVER.is_file() else ""
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _file(path: str | None) -> str:
    """A program's file, and what changes with it."""
    if path is None:
        return ""
    real = Path(path).resolve()
    state = real.stat()
    return f"{real} {state.st_size} {state.st_mtime_ns}"


def _sources_digest() -> str:
    """Of the engine's own code, which changes between releases in a checkout."""
    folder, digest = Path(__file__).parent, hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*")):
        if path.suffix in SOURCES:
            digest.update(f"{path.relative_to(folder)} ".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
