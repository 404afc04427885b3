"""What the package offers, and what it must not bring along."""

from __future__ import annotations

import inspect
import subprocess
import sys
import types

import outrider
import outrider.errors


def test_exports_equal_all():
    exported = {
        name
        for name, value in vars(outrider).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert sorted(exported) == sorted(outrider.__all__)


def test_every_exception_is_exported():
    kinds = {
        name
        for name, value in vars(outrider.errors).items()
        if inspect.isclass(value) and issubclass(value, outrider.OutriderError)
    }
    assert kinds <= set(outrider.__all__)


def test_the_tree_at_the_top_of_the_errors_names_each_below_its_base():
    lines = (outrider.errors.__doc__ or "").splitlines()
    drawn: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in lines:
        words = line.strip("│├└─ ").split()
        if not words or not words[0].endswith("Error") or not line.startswith("    "):
            continue
        depth = line.index(words[0])
        path = [entry for entry in path if entry[0] < depth]
        if path:
            drawn[words[0]] = path[-1][1]
        path.append((depth, words[0]))
    actual = {
        name: value.__base__.__name__
        for name, value in vars(outrider.errors).items()
        if inspect.isclass(value) and issubclass(value, outrider.OutriderError)
    }
    actual.pop("OutriderError")
    assert drawn == actual


def test_importing_brings_no_server_model_library_or_terminal():
    script = (
        "import sys, outrider;"
        "print(*{name.partition('.')[0] for name in sys.modules}"
        " & {'outrider_server', 'torch', 'transformers', 'numpy', 'tokenizers', 'typer', 'rich'})"
    )
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""
