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


def check_free(listen: Listen) -> None:
    """Raises StartupError where a server could not listen now. Disturbs nobody who does."""
    if listen.path:
        _check_path(listen)
    elif listen.name:
        _try_bind(listen, socket.AF_UNIX, "\0" + listen.name)
    else:
        _check_port(listen)


@contextmanager
def claimed(listen: Listen) -> Iterator[None]:
    """Checks once more, and keeps other servers of this kind from the path until the caller has bound it."""
    if not listen.path:
        yield
        return
    folder = os.open(Path(listen.path).parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        check_free(listen)
        yield
    finally:
        os.close(folder)


def _check_path(listen: Listen) -> None:
    path = Path(listen.path)
    if not path.parent.is_dir():
        raise StartupError(f"cannot listen on {listen.text}: {path.parent} is no folder")
    if not os.access(path.parent, os.R_OK | os.W_OK | os.X_OK):
        raise StartupError(f"cannot listen on {listen.text}: {path.parent} may not be written to")
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise StartupError(f"cannot listen on {listen.text}: there is something else than a socket")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(ANSWER_SECONDS)
        try:
            caller.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return  # its server is dead, or went in this moment
        except OSError:
            pass  # somebody else's, or one that is too busy to answer
    raise StartupError(f"cannot listen on {listen.text}: another server does")


def _check_port(listen: Listen) -> None:
    try:
        found = socket.getaddrinfo(
            listen.host, listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise StartupError(
            f"cannot listen on {listen.text}: {listen.host} is no host that is known"
        ) from error
    missing = [_try_bind(listen, family, address) for family, _, _, _, address in found]
    if all(missing):
        raise StartupError(f"cannot listen on {listen.text}: {missing[0]}")


def _try_bind(listen: Listen, family: int, address: object) -> str:
    """Why this machine has no such address; nothing where it has. Raises StartupError where it is taken."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family != socket.AF_UNIX:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)  # type: ignore[arg-type]
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartupError(f"cannot listen on {listen.text}: another server does") from error
        return error.strerror or str(error)
    return ""
