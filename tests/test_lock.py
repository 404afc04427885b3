"""The lock: `constraints.txt` pins what `make demo`, `make test` and the images install."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OPTIONAL = {"flash-attn"}
"""Built on the machine that wants it, against its torch and its CUDA."""


def pins() -> dict[str, str]:
    """Package to version on this platform; fails on a line that is no exact version."""
    entries = map(Requirement, (REPOSITORY / "constraints.txt").read_text().splitlines())
    found: dict[str, str] = {}
    for entry in entries:
        (specifier,) = entry.specifier
        assert specifier.operator == "==", entry
        if entry.marker is None or entry.marker.evaluate():
            found[canonicalize_name(entry.name)] = specifier.version
    return found


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for, other extras of this distribution left out."""
    wanted = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        wanted += extra
    parsed = map(Requirement, wanted)
    return [entry for entry in parsed if entry.name != "outrider" and entry.name not in OPTIONAL]


@pytest.mark.parametrize("wanted", requirements(), ids=str)
def test_the_lock_pins_each_requirement_within_its_range(wanted: Requirement) -> None:
    assert wanted.specifier.contains(pins()[canonicalize_name(wanted.name)])


def test_the_lock_says_what_builds_the_project() -> None:
    assert {"hatchling", "editables"} <= pins().keys()


def test_the_lock_names_no_build_of_torch() -> None:
    assert re.fullmatch(r"[\d.]+", pins()["torch"])


@pytest.mark.parametrize("target", [".venv/engine", ".venv/dev"])
def test_environments_are_installed_from_the_lock(target: str) -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    (rule,) = re.findall(rf"^{re.escape(target)}:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    installs = [line for line in rule.splitlines() if "$(INSTALL)" in line]
    assert installs
    assert all("--constraint constraints.txt" in line for line in installs)


@pytest.mark.parametrize("wanted", requirements(), ids=str)
def test_every_requirement_says_how_old_a_version_will_do(wanted: Requirement) -> None:
    assert any(specifier.operator in (">=", "==") for specifier in wanted.specifier)
