"""Addresses as gRPC reads them, checked before anything is dialled, loaded or bound.

What gRPC would take for something else is refused: port 99999 for 34463, a name without a port for port 443,
a path that clients read up to ? or #, or cannot connect to for a comma. Does not know what is at an address.
Raises ValueError, in one sentence, for SDK and server alike.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from urllib.parse import quote, unquote

UNIX = "unix:"
ABSTRACT = "unix-abstract:"
LONGEST_PATH = 107 if sys.platform == "linux" else 103
"""Bytes that the system has room for in a socket's address."""
DNS = "dns:"
IP_SCHEMES = ("ipv4:", "ipv6:")
FOREIGN_SCHEMES = ("xds:", "google-c2p:", "vsock:")
"""gRPC's own, whose names are no host's and have no port."""

FORMS = "HOST:PORT, [IPV6]:PORT or unix:PATH"

_HOST = re.compile(r"[^\s:/?#\[\]@,]+|\[[0-9A-Fa-f:.]+(%\w+)?\]")
_PORT = re.compile(r"[0-9]{1,5}")


def read_peer(text: str) -> str:
    """The address of a service, as gRPC takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text!a} is no address: it has a byte that is no UTF-8") from None
    if text.startswith(UNIX):
        return UNIX + quote(socket_path(text))
    if text.startswith(ABSTRACT):
        abstract_name(text)
        return text
    scheme = next(
        (each for each in (DNS, *IP_SCHEMES, *FOREIGN_SCHEMES) if text.startswith(each)), ""
    )
    rest = text.removeprefix(scheme)
    if rest.startswith("//"):  # an authority, which may be empty, comes first
        rest = rest[2:].partition("/")[2]
    if scheme in FOREIGN_SCHEMES:
        if not rest or any(map(str.isspace, text)):
            raise ValueError(f"{text} names nothing")
        return text
    forms = "dns:///HOST:PORT" if scheme == DNS else FORMS
    for each in rest.split(",") if scheme in IP_SCHEMES else [rest]:
        host, _ = host_and_port(each, 1, text, forms)
        if scheme in IP_SCHEMES and not _is_ip(host, int(scheme[3])):
            raise ValueError(f"{text} is no address: {scheme} goes with numbers, not with {host}")
    return text


def socket_path(text: str) -> str:
    """The path of `unix:PATH`."""
    written = text.removeprefix(UNIX)
    if written.startswith("//"):
        written = written[2:]
        if not written.startswith("/"):
            raise ValueError(f"{text} is no address; write unix:PATH or unix:///ABSOLUTE/PATH")
    path = os.path.expanduser(unquote(written))
    if not path:
        raise ValueError(f"{text} has no path; write unix:PATH")
    if "?" in written or "#" in written or "," in path or "\0" in path:
        raise ValueError(
            f"{text} cannot be connected to: a socket's path holds no comma, and %3F and %23 for ? and #"
        )
    length = len(os.fsencode(path))
    if length > LONGEST_PATH:
        raise ValueError(
            f"{text} is too long: a socket's path has at most {LONGEST_PATH} bytes, not {length}"
        )
    return path


def abstract_name(text: str) -> str:
    """The name of `unix-abstract:NAME`."""
    name = unquote(text.removeprefix(ABSTRACT))
    if not name or set(name) & set(",?#") or len(os.fsencode(name)) > LONGEST_PATH:
        raise ValueError(
            f"{text} is no address: a name has 1 to {LONGEST_PATH} bytes, none of them , ? or #"
        )
    return name


def host_and_port(rest: str, least: int, text: str, forms: str = FORMS) -> tuple[str, int]:
    """The two parts of HOST:PORT, which stands in the address `text`."""
    if not text:
        raise ValueError(f"the address is empty; write {forms}")
    if _HOST.fullmatch(rest):
        raise ValueError(f"{text} has no port; write {forms}")
    host, _, port = rest.rpartition(":")
    is_host = _is_ip(host, 6) if host.startswith("[") else _HOST.fullmatch(host)
    if not is_host or not _PORT.fullmatch(port):
        raise ValueError(f"{text} is no address; write {forms}")
    if not least <= int(port) <= 65535:
        raise ValueError(f"{text} has no port that exists; ports are {least} to 65535")
    return host, int(port)


def _is_ip(host: str, version: int) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).version == version
    except ValueError:
        return False
