"""The URL of a PostgreSQL ledger: read strictly, and shown without its secrets.

Owns what a user reads when a URL cannot be read. No sentence holds a value of it: where a special
character is not written as %XX, any part may be a piece of the password.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from outrider_server.core.errors import InvalidRequest

DEFAULTS: dict[str, Any] = {
    "application_name": "outrider",
    "connect_timeout": 3,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
}
ALWAYS = {"client_encoding": "UTF8"}
"""Whatever the environment or the URL says: the ledger's texts are Unicode."""
HOW_TO = "write postgresql://USER@HOST:PORT/DATABASE, with special characters of names and passwords as %XX"
_PARAMETERS = {option.keyword.decode() for option in pq.Conninfo.get_defaults()} | {"ssl"}
"""What libpq knows; `ssl=true` is its other name for `sslmode=require`."""


def connection_parameters(url: str) -> dict[str, Any]:
    """What a URL asks for, and defaults for what it leaves open. Raises InvalidRequest."""
    _check_signs(url)
    _check_names(url)
    try:
        parameters = DEFAULTS | conninfo_to_dict(url) | ALWAYS
    except (psycopg.Error, UnicodeEncodeError):  # whose text may be the URL
        raise InvalidRequest("ledger", f"the URL cannot be read; {HOW_TO}") from None
    timeout = str(parameters["connect_timeout"])
    if not timeout.isdecimal():
        raise InvalidRequest("ledger", "connect_timeout must be a whole number of seconds")
    _check_ports(str(parameters.get("port", "")))
    return parameters | {"connect_timeout": int(timeout)}


def shown(url: str) -> str:
    """The servers and the database of a URL; nothing of one that cannot be read."""
    try:
        parameters = connection_parameters(url)
    except InvalidRequest:
        return "in PostgreSQL"
    hosts = str(parameters.get("host", "")).split(",")
    ports = str(parameters.get("port", "")).split(",")
    ports = ports if len(ports) == len(hosts) else ports[:1] * len(hosts)
    places = (f"{host}:{port}" if port else host for host, port in zip(hosts, ports, strict=True))
    return f"postgresql://{','.join(places)}/{parameters.get('dbname', '')}"


def _check_signs(url: str) -> None:
    """An @ is between the user and the host and nowhere else; libpq takes the first one for that."""
    _, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if rest.count("@") > 1 or ("@" in rest and "@" not in authority):
        raise InvalidRequest(
            "ledger",
            "the URL has an @, /, ? or # in a place where it must be written as %40, %2F, %3F or %23; "
            f"{HOW_TO}",
        )


def _check_ports(ports: str) -> None:
    """What stands for a port is the password where the host is left out."""
    for port in filter(None, ports.split(",")):
        if not (port.isascii() and port.isdecimal() and 1 <= int(port) <= 65535):
            raise InvalidRequest(
                "ledger",
                f"a port of the URL is no number of 1 to 65535; is @HOST missing? {HOW_TO}",
            )


def _check_names(url: str) -> None:
    _, _, query = url.partition("?")
    for pair in filter(None, query.split("&")):
        name = unquote(pair.partition("=")[0])
        if name not in _PARAMETERS:
            raise InvalidRequest(
                "ledger",
                f"PostgreSQL has no parameter {name[:40]!r}, which the URL names; look for a slip of the pen",
            )
