"""Addresses of services: where one listens, and where another is. The rules are those of `outrider._address`.

They are imported where they are used: with the SDK comes gRPC, which the help of a command does without. Does
not know what is at an address.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

from .core.errors import StartupError


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
        from outrider import _address

        with _refused():
            if text.startswith(_address.UNIX):
                path = _address.socket_path(text)
                return cls(_address.UNIX + quote(path), path=path)
            if text.startswith(_address.ABSTRACT):
                return cls(text, name=_address.abstract_name(text))
            host, port = _address.host_and_port(text, 0, text)
            return cls(f"{host}:{port}", host=host.strip("[]"), port=port)

    def with_port(self, port: int) -> str:
        """The address once it is bound."""
        return f"{self.text.rpartition(':')[0]}:{port}" if self.host else self.text


def read_peer(text: str) -> str:
    """The address of a service, as gRPC takes it. Raises StartupError for what is none."""
    from outrider import _address

    with _refused():
        return _address.read_peer(text)


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise StartupError(str(error)) from None
