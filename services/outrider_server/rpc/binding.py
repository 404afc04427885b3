"""Whether an address is free on this machine, and taking it from nobody who lives.

gRPC removes whatever socket it finds at a path before it binds there, that of a living server too.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..address import Listen
from ..core.errors import StartupError

ANSWER_SECONDS = 2.0
"""A server that has too many waiting takes so long, and lives."""


def check_free(place: Listen) -> None:
    """Raises StartupError where a server could not listen now. Disturbs nobody who does."""
    if place.path:
        _check_path(place)
    elif place.name:
        _try_bind(place, socket.AF_UNIX, "\0" + place.name)
    else:
        _check_port(place)


@contextmanager
def claimed(place: Listen) -> Iterator[None]:
    """Checks once more, and keeps other servers of this kind from the path until the caller has bound it."""
    if not place.path:
        yield
        return
    folder = os.open(Path(place.path).parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        check_free(place)
        yield
    finally:
        os.close(folder)


def _check_path(place: Listen) -> None:
    path = Path(place.path)
    if not path.parent.is_dir():
        raise StartupError(f"cannot listen on {place.text}: {path.parent} is no folder")
    if not os.access(path.parent, os.R_OK | os.W_OK | os.X_OK):
        raise StartupError(f"cannot listen on {place.text}: {path.parent} may not be written to")
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise StartupError(f"cannot listen on {place.text}: there is something else than a socket")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(ANSWER_SECONDS)
        try:
            caller.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return  # its server is dead, or went in this moment
        except OSError:
            pass  # somebody else's, or one that is too busy to answer
    raise StartupError(f"cannot listen on {place.text}: another server does")


def _check_port(place: Listen) -> None:
    try:
        found = socket.getaddrinfo(
            place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise StartupError(
            f"cannot listen on {place.text}: {place.host} is no host that is known"
        ) from error
    missing = [_try_bind(place, family, address) for family, _, _, _, address in found]
    if all(missing):
        raise StartupError(f"cannot listen on {place.text}: {missing[0]}")


def _try_bind(place: Listen, family: int, address: object) -> str:
    """Why this machine has no such address; nothing where it has. Raises StartupError where it is taken."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family != socket.AF_UNIX:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)  # type: ignore[arg-type]
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartupError(f"cannot listen on {place.text}: another server does") from error
        return error.strerror or str(error)
    return ""
