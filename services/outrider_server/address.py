"""Addresses as gRPC reads them, checked before anything is loaded.

What gRPC would take for something else is refused: port 99999 for 34463, a name without a port for port 443,
a path that clients read up to ? or #, or cannot connect to for a comma. Does not know what is at an address.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from urllib.parse import quote, unquote

from .speculation.errors import StartupError

UNIX = "unix:"
ABSTRACT = "unix-abstract:"
LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes that the system has room for in a socket's address."""
SCHEMES = ("dns:", "ipv4:", "ipv6:")
"""gRPC's own for what it connects to."""

FORMS = "HOST:PORT, [IPV6]:PORT or unix:PATH"

_HOST = re.compile(r"[^\s:/?#\[\]@,]+|\[[0-9A-Fa-f:.]+(%\w+)?\]")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a server listens: at a host's port, at a socket's path, or at an abstract name."""

    text: str
    """As gRPC takes it, from servers and clients alike."""
    host: str = ""
    port: int = 0
    path: str = ""
    name: str = ""

    @classmethod
    def read(cls, text: str) -> Listen:
        """Raises StartupError for what is no address to listen at."""
        if text.startswith(UNIX):
            path = _socket_path(text)
            return cls(UNIX + quote(path), path=path)
        if text.startswith(ABSTRACT):
            return cls(text, name=_abstract_name(text))
        host, port = _host_and_port(text, 0, text)
        return cls(f"{host}:{port}", host=host.strip("[]"), port=port)

    def with_port(self, port: int) -> str:
        """The address once it is bound."""
        return f"{self.text.rpartition(':')[0]}:{port}" if self.host else self.text


def read_peer(text: str) -> str:
    """The address of a service, as gRPC takes it. Raises StartupError for what is none."""
    if text.startswith(UNIX):
        return UNIX + quote(_socket_path(text))
    if text.startswith(ABSTRACT):
        _abstract_name(text)
        return text
    scheme = next((each for each in SCHEMES if text.startswith(each)), "")
    place = text.removeprefix(scheme)
    if place.startswith("//"):  # an authority, which may be empty, comes first
        place = place[2:].partition("/")[2]
    _host_and_port(place, 1, text, "dns:///HOST:PORT" if scheme == "dns:" else FORMS)
    return text


def _socket_path(text: str) -> str:
    written = text.removeprefix(UNIX)
    if written.startswith("//"):
        written = written[2:]
        if not written.startswith("/"):
            raise StartupError(f"{text} is no address; write unix:PATH or unix:///ABSOLUTE/PATH")
    path = os.path.expanduser(unquote(written))
    if not path:
        raise StartupError(f"{text} has no path; write unix:PATH")
    if "?" in written or "#" in written or "," in path or "\0" in path:
        raise StartupError(
            f"{text} cannot be connected to: a socket's path holds no comma, and %3F and %23 for ? and #"
        )
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        raise StartupError(
            f"{text} is too long: a socket's path has at most {LONGEST_PATH} bytes, not {length}"
        )
    return path


def _abstract_name(text: str) -> str:
    name = unquote(text.removeprefix(ABSTRACT))
    if not name or set(name) & set(",?#") or len(os.fsencode(name)) > LONGEST_PATH:
        raise StartupError(
            f"{text} is no address: a name has 1 to {LONGEST_PATH} bytes, none of them , ? or #"
        )
    return name


def _host_and_port(place: str, least: int, text: str, forms: str = FORMS) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    if not _HOST.fullmatch(host) or not _PORT.fullmatch(port):
        raise StartupError(f"{text or 'nothing'} is no address; write {forms}")
    if not least <= int(port) <= 65535:
        raise StartupError(f"{text} has no port that exists; ports are {least} to 65535")
    return host, int(port)
