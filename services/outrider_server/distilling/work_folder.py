"""The folder of a draft in the making: whose it is, and what it was begun with.

All that is not the draft itself stands in a folder of its own inside. One process at a time has it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..core.errors import StartupError
from .disk import kept_room, write_json

WORK = ".distill"
BEGUN = "begun.json"
LOCK = "lock"


class WorkFolder:
    """The files of one run, held by this process. Made by `held_folder`."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.path = output / WORK

    def begin(self, facts: Mapping[str, object]) -> None:
        """Notes what the run is made with. Raises StartupError where it was begun with something else."""
        others = _others(self.path / BEGUN, facts)
        if others:
            raise StartupError(
                f"{self.output} was begun with other {others}; give the same as then, or another folder"
            )

    def part(self, name: str, facts: Mapping[str, object]) -> Path:
        """The folder of a part of the run. Raises StartupError where it was begun with other facts."""
        part = self.path / name
        with kept_room(part):
            part.mkdir(exist_ok=True)
        others = _others(part / BEGUN, facts)
        if others:
            raise StartupError(
                f"{part} was begun with other {others}; give the same as then, or remove it to begin anew"
            )
        return part


def _others(path: Path, facts: Mapping[str, object]) -> str:
    """The names of facts that a file has otherwise, in words; writes the file where it is not there."""
    if not path.exists():
        write_json(path, dict(facts))
        return ""
    begun = json.loads(path.read_bytes())
    return " and ".join(
        name for name in sorted(begun | facts) if begun.get(name) != facts.get(name)
    )


@contextmanager
def held_folder(output: Path) -> Iterator[WorkFolder]:
    """The folder, made where it is not there, for this process alone.

    Raises StartupError where another run has it, where it holds something else, or cannot be written.
    """
    folder = WorkFolder(output)
    _check_free(folder)
    with kept_room(output):
        folder.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartupError(
                f"another run writes into {output}; wait for its end, or give another folder"
            ) from error
        yield folder
    finally:
        os.close(descriptor)


def _check_free(folder: WorkFolder) -> None:
    if folder.path.is_dir() or not folder.output.exists():
        return
    if not folder.output.is_dir():
        raise StartupError(f"the output {folder.output} is a file; give a folder")
    if any(folder.output.iterdir()):
        raise StartupError(
            f"the output {folder.output} holds something else; give an empty folder, or a new one"
        )
