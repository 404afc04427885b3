"""How much memory a device has left: the machine's, a container's, or a GPU's."""

from __future__ import annotations

from pathlib import Path

import torch


def available_bytes(device: torch.device, root: Path = Path("/")) -> int | None:
    """Bytes that can be allocated now on a device; None where nobody says.

    On a CPU the smaller of what the system and what the control groups of this process leave. Pages of files
    count as free: the system drops them when memory is wanted. `root` is where /proc and /sys are found.
    """
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    limits = [_of_system(root), *_of_groups(root)]
    return min((limit for limit in limits if limit is not None), default=None)


def _of_system(root: Path) -> int | None:
    """MemAvailable of Linux."""
    fields = _table(root / "proc/meminfo")
    kibibytes = fields.get("MemAvailable:")
    return None if kibibytes is None else kibibytes * 1024


def _of_groups(root: Path) -> list[int]:
    """What each control group (version 2) from this process's own to the root leaves."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if own is None:
        return []
    base = root / "sys/fs/cgroup"
    group = base / own.strip().lstrip("/")
    left = []
    for folder in (group, *group.parents):
        if not folder.is_relative_to(base):
            break
        limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
        if limit is not None and used is not None:
            files = _table(folder / "memory.stat").get("inactive_file", 0)
            left.append(max(0, limit - used + files))
    return left


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or where it says max."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _table(path: Path) -> dict[str, int]:
    """The first two words of every line, of files like /proc/meminfo."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    words = [line.split() for line in lines]
    return {entry[0]: int(entry[1]) for entry in words if len(entry) > 1 and entry[1].isdigit()}
