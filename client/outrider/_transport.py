"""What gRPC itself says of a call that no service answered, in sentences for a user.

Knows gRPC's own sentences; one that it does not know stays, without the names of codes in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from grpc import StatusCode

_CODES = re.compile(rf"\b(?:{'|'.join(code.name for code in StatusCode)}): ?")
_NO_CONNECTION = re.compile(r"failed to connect to all addresses; last error: (\S+?): (.*)", re.S)
_NOBODY = re.compile(r"(?:Failed to connect to remote host|connect failed: .* error): (.*)", re.S)
_NO_NAME = re.compile(r"(?:errors resolving|DNS resolution failed for) .*: ?([^:\]]+)\]?", re.S)
_NO_GRPC = re.compile(r"Received http2 header with status: (\d+)")
_NO_METHOD = re.compile(r"Method not found!")
_CUT_OFF = re.compile(
    r"(?:the call failed with )?CANCELLED|Received RST_STREAM with error code \d+"
)
_LOST = re.compile(r"Socket closed|Stream removed.*|recvmsg:.*|Connection reset by peer", re.S)
_TOO_LATE = re.compile(r"Deadline Exceeded", re.I)


def sentence(message: str, target: str) -> str:
    """What to tell of a call to the target that failed so."""
    plain, target = _CODES.sub("", message), unquote(target)
    for said, told in _TABLE:
        if found := said.fullmatch(plain):
            return told(found, target)
    return plain


def _not_connected(found: re.Match[str], target: str) -> str:
    address, cause = unquote(found[1]), found[2]
    address = address if address.startswith("unix") else address.partition(":")[2]
    place = target if address in target else f"{target} ({address})"
    nobody = _NOBODY.fullmatch(cause)
    if nobody is None:
        return f"no connection to {place} can be made: {cause}; is it the service's address?"
    return f"nothing answers at {place}: {nobody[1]}; is the service running?"


def _not_found(found: re.Match[str], target: str) -> str:
    return f"the name in {target} cannot be looked up: {found[1].strip()}; is it written right?"


def _no_grpc(found: re.Match[str], target: str) -> str:
    return f"{target} answers with HTTP status {found[1]} and no gRPC; is it the service's address?"


def _no_method(found: re.Match[str], target: str) -> str:
    return f"{target} has no such call; is it a session service, and no older than this SDK?"


def _cut_off(found: re.Match[str], target: str) -> str:
    return f"{target}, or what lies between, ended the call without a reason; try again"


def _lost(found: re.Match[str], target: str) -> str:
    return f"the connection to {target} was lost; try again"


def _too_late(found: re.Match[str], target: str) -> str:
    return "the call's timeout_ms ran out before its end"


_TABLE: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], str], str]], ...] = (
    (_NO_CONNECTION, _not_connected),
    (_NO_NAME, _not_found),
    (_NO_GRPC, _no_grpc),
    (_NO_METHOD, _no_method),
    (_CUT_OFF, _cut_off),
    (_LOST, _lost),
    (_TOO_LATE, _too_late),
)
