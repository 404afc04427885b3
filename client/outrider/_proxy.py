"""Whether gRPC goes to an address through a proxy of the environment, and what to tell of it.

gRPC takes the first of `grpc_proxy`, `https_proxy` and `http_proxy`, unless `no_grpc_proxy` or `no_proxy`
names the host, or a network of it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
_EXCEPTIONS = ("no_grpc_proxy", "no_proxy")
_LOCAL = ("unix:", "unix-abstract:", "vsock:")
_SCHEMES = ("dns:", "ipv4:", "ipv6:")


def is_local(target: str) -> bool:
    """True for an address of this machine alone."""
    if target.startswith(_LOCAL):
        return True
    host = _host(target)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def proxy_note(target: str, environment: Mapping[str, str]) -> str:
    """What a failure has to say of the proxy that the call went through; empty where there is none."""
    name = next((name for name in _PROXIES if environment.get(name)), None)
    if name is None or is_local(target) or _is_excepted(_host(target), environment):
        return ""
    proxy = urlsplit(environment[name])
    shown = f"{proxy.scheme}://{proxy.netloc.rpartition('@')[2]}"  # never its password
    return f" (through the proxy {shown} of {name}; a host in no_proxy is reached without)"


def _host(target: str) -> str:
    rest = target
    for scheme in _SCHEMES:
        if rest.startswith(scheme):
            rest = rest.removeprefix(scheme).rpartition("/")[2]
    if rest.startswith("["):
        return rest[1:].partition("]")[0]
    return rest.rpartition(":")[0] or rest


def _is_excepted(host: str, environment: Mapping[str, str]) -> bool:
    named = next((environment[name] for name in _EXCEPTIONS if environment.get(name)), "")
    return any(_covers(entry.strip(), host) for entry in named.split(",") if entry.strip())


def _covers(entry: str, host: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return host.lower().endswith(entry.lower())
