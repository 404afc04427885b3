"""Parked sessions: what the KV cache held of sessions that gave up their slot, in host memory.

Owned by the device thread. A session is in a slot or parked, never both. What does not fit the byte budget is
dropped, the session that was parked longest ago first; it can be rebuilt from its tokens at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from ..core.errors import StaleEpoch


class ParkableCache(Protocol):
    """A slot cache whose sessions can be parked."""

    @property
    def group_size(self) -> int:
        """Positions that lie together, and are copied together."""

    def slot_layers(self, slot: int) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
        """Keys and values of each layer of a slot, [K, L / group_size, ...], uncopied."""


@dataclass(frozen=True, slots=True)
class Layers:
    """A copy of what a slot's first positions hold: keys and values of each layer, [K, groups, ...].

    The last group may hold positions behind them, which mean nothing.
    """

    pairs: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    group_size: int = 1

    @property
    def byte_count(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self.pairs)

    def up_to(self, length: int) -> Layers:
        """A copy of the first `length` positions."""
        groups = -(-length // self.group_size)
        pairs = ((keys[:, :groups], values[:, :groups]) for keys, values in self.pairs)
        return Layers(
            tuple((keys.clone(), values.clone()) for keys, values in pairs), self.group_size
        )


@dataclass(frozen=True, slots=True)
class ParkedSession:
    """A session's tokens and their keys and values."""

    epoch: int
    tokens: tuple[int, ...]
    layers: Layers
    reading: int = 0
    """At what length they were read: see `lengths.py`."""

    @property
    def byte_count(self) -> int:
        """Size of its keys and values."""
        return self.layers.byte_count

    def up_to(self, length: int, epoch: int) -> ParkedSession:
        """A copy of its first `length` tokens, with tensors of its own."""
        layers = self.layers.up_to(length)
        return ParkedSession(epoch, self.tokens[:length], layers, self.reading)


@dataclass(slots=True)
class ParkedSessions:
    """The parked sessions by id, those parked longest ago first."""

    budget_bytes: int
    byte_count: int = 0
    parked: int = 0
    """Sessions parked since the start."""
    restored: int = 0
    dropped: int = 0
    """Sessions whose KV was lost because it did not fit."""
    _sessions: dict[str, ParkedSession] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._sessions)

    def put(self, session_id: str, session: ParkedSession) -> bool:
        """Keeps a session, dropping others until it fits; False where it never can."""
        self.forget(session_id)
        if session.byte_count > self.budget_bytes:
            self.dropped += 1
            return False
        while self.byte_count + session.byte_count > self.budget_bytes:
            self.forget(next(iter(self._sessions)))
            self.dropped += 1
        self._sessions[session_id] = session
        self.byte_count += session.byte_count
        self.parked += 1
        return True

    def get(self, session_id: str, epoch: int) -> ParkedSession | None:
        """A parked session, which stays. Raises StaleEpoch for an epoch older than its own."""
        session = self._sessions.get(session_id)
        if session is not None and epoch < session.epoch:
            raise StaleEpoch(
                f"epoch {epoch} is out of date; the session is owned by epoch {session.epoch}",
                session.epoch,
            )
        return session

    def take(self, session_id: str, epoch: int) -> ParkedSession | None:
        """A parked session, which then is parked no more. Raises StaleEpoch as `get` does."""
        session = self.get(session_id, epoch)
        self.forget(session_id)
        return session

    def give_back(self, session_id: str, session: ParkedSession) -> None:
        """Parks again what was taken, as if it had stayed."""
        self._sessions = {session_id: session, **self._sessions}
        self.byte_count += session.byte_count

    def forget(self, session_id: str) -> None:
        """Drops a session; an unknown one is none of its business."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self.byte_count -= session.byte_count


def read_slot(cache: ParkableCache, slot: int, length: int) -> Layers:
    """Copies the first `length` positions of a slot to the host, to pinned memory where it is a GPU's."""
    groups = -(-length // cache.group_size)
    pairs = tuple(
        (_to_host(keys[:, :groups]), _to_host(values[:, :groups]))
        for keys, values in cache.slot_layers(slot)
    )
    return Layers(pairs, cache.group_size)


def write_slot(cache: ParkableCache, slot: int, layers: Layers) -> None:
    """Copies what `read_slot` gave into a slot, from its first position on."""
    for held, copied in zip(cache.slot_layers(slot), layers.pairs, strict=True):
        for to, part in zip(held, copied, strict=True):
            to[:, : part.shape[1]] = part


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.device.type == "cuda")
    return host.copy_(tensor)
