"""The services of one kind that turns go to, and those that turns still leave. Knows no policy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar


class Peer(Protocol):
    """One service, reached over a channel of its own."""

    @property
    def address(self) -> str:
        """Where it is."""
        ...

    @property
    def turns(self) -> int:
        """Turns of this process that run there, or wait to."""
        ...

    async def close(self) -> None:
        """Ends every turn there and closes the channel."""
        ...


PeerT = TypeVar("PeerT", bound=Peer)


class Pool(Generic[PeerT]):
    """Peers by address. `make` makes the one at an address."""

    def __init__(self, make: Callable[[str], PeerT], addresses: Sequence[str]) -> None:
        self._make = make
        self._leaving: list[PeerT] = []
        self.members = [make(address) for address in addresses]

    async def move_to(self, addresses: Sequence[str]) -> None:
        """From now on turns go to these addresses. Those that are gone end the turns that run there."""
        known = {peer.address: peer for peer in (*self._leaving, *self.members)}
        # A turn that is being opened may still come to a peer that left just now.
        over = [peer for peer in self._leaving if peer.address not in addresses and not peer.turns]
        self.members = [known.get(address) or self._make(address) for address in addresses]
        self._leaving = [peer for peer in known.values() if peer not in (*self.members, *over)]
        await asyncio.gather(*(peer.close() for peer in over))

    async def close(self) -> None:
        """Ends every turn and closes every channel."""
        await asyncio.gather(*(peer.close() for peer in (*self.members, *self._leaving)))
