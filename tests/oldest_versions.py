"""Prints the oldest version that pyproject.toml admits of each package it names, as constraints for pip.

Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def oldest_versions() -> dict[str, str]:
    """Package to the version after `>=` or `==`; those without a floor are left out."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += extra
    floors = (re.match(r"([\w-]+)(?:\[[\w,]+\])?[>=]=([\w.]+)", entry) for entry in wanted)
    return {floor[1]: floor[2] for floor in floors if floor is not None}


if __name__ == "__main__":
    for name, version in sorted(oldest_versions().items()):
        print(f"{name}=={version}")
