"""Writing files so that a kill or a full disk loses nothing that was there."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import StartupError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def kept_room(path: Path) -> Iterator[None]:
    """Raises StartupError where the body cannot write: what was made before is kept."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StartupError(
                f"no room is left to write {path}; all that was made before is kept: make room and run "
                "the same command again"
            ) from error
        raise StartupError(f"{path} cannot be written: {error.strerror}") from error


@contextmanager
def replaced(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of another once it is whole and on the disk. Raises StartupError."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    with kept_room(path):
        try:
            with unfinished.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes an object, whole or not at all. Raises StartupError."""
    with replaced(path) as file:
        file.write((json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
