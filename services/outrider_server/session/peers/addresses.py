"""The addresses of a kind of service: those that were given, and what DNS names among them stand for now.

Owns when names are looked up, and what was found last. Knows nothing of what is at an address.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence

from ...core.errors import StartupError, Unavailable

SCHEME = "dns:///"
"""As gRPC writes names; it would take one address of each, and we take all."""
LOOK_SECONDS = 30.0
"""How often a name is looked up while nothing fails."""
LEAST_SECONDS = 1.0
"""The least time between two looks."""

logger = logging.getLogger(__name__)

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The IP addresses of a host. Raises OSError where there are none."""


def split_name(address: str) -> tuple[str, int] | None:
    """Host and port of a DNS name; None for an address that is used as it is.

    Raises StartupError for a name without either.
    """
    if not address.startswith(SCHEME):
        return None
    host, _, port = address.removeprefix(SCHEME).rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise StartupError(f"{address} has no host or no port; write {SCHEME}HOST:PORT")
    return host.strip("[]"), int(port)


async def resolve(host: str, port: int) -> list[str]:
    """Asks the system's resolver, for A and AAAA records."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def joined(ip: str, port: int) -> str:
    """An IP address and a port as one address."""
    is_long = ipaddress.ip_address(ip.partition("%")[0]).version == 6
    return f"[{ip}]:{port}" if is_long else f"{ip}:{port}"


async def pause(
    failed: asyncio.Event, least: float = LEAST_SECONDS, most: float = LOOK_SECONDS
) -> None:
    """Returns when it is time to look again: after a failure, or `most` seconds."""
    await asyncio.sleep(least)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(most - least):
            await failed.wait()
    failed.clear()


class Addresses:
    """The addresses of a kind of service, looked up anew now and then."""

    def __init__(self, given: Sequence[str], resolve: Resolve = resolve) -> None:
        """Raises StartupError for a name that is not written as one."""
        self._given = {address: split_name(address) for address in given}
        self._resolve = resolve
        self._found: dict[str, tuple[str, ...]] = {}
        self._failing: set[str] = set()

    @property
    def have_names(self) -> bool:
        """True where there is anything to look up."""
        return any(self._given.values())

    async def look_up(self) -> tuple[str, ...]:
        """All addresses, each once, in the order of what was given.

        A name that cannot be resolved, or has no address now, keeps those that it had: no answer is not the
        answer that nothing is there.
        """
        for address, name in self._given.items():
            if name is not None:
                await self._look_up(address, *name)
        return self._all()

    async def first(self, timeout_seconds: float) -> tuple[str, ...]:
        """All addresses, once there is one. Raises Unavailable after the timeout."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not await self.look_up():  # noqa: ASYNC110 - DNS tells nobody of news
                    await asyncio.sleep(LEAST_SECONDS)
        except TimeoutError:
            raise Unavailable("no name among the addresses could be resolved") from None
        return self._all()

    async def follow(
        self,
        move_to: Callable[[Sequence[str]], Awaitable[None]],
        failed: asyncio.Event,
        pause: Callable[[asyncio.Event], Awaitable[None]] = pause,
    ) -> None:
        """Tells the addresses after each look, until it is cancelled. `failed` asks for one soon."""
        while self.have_names:
            await pause(failed)
            await move_to(await self.look_up())

    async def _look_up(self, address: str, host: str, port: int) -> None:
        try:
            found = await self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            if address not in self._failing:
                logger.warning("%s cannot be resolved: %s", address, error)
            self._failing.add(address)
            return
        self._failing.discard(address)
        if found:
            self._found[address] = tuple(sorted({joined(ip, port) for ip in found}))

    def _all(self) -> tuple[str, ...]:
        every = (
            place
            for address, name in self._given.items()
            for place in ((address,) if name is None else self._found.get(address, ()))
        )
        return tuple(dict.fromkeys(every))
