"""The links of a group of ranks: one connection from rank 0 to each of the others.

Over it rank 0 says what to run, and by it each side learns at once that the other has ended: an idle group
waits in no collective, which could run into a timeout or hang. Knows no torch.

A message is an operation (one byte), the length of its payload (four bytes) and the payload. Who connects
shows the group's secret and its rank first.
"""

from __future__ import annotations

import hmac
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ...core.errors import StartupError

HEADER = struct.Struct("!BI")
GREETING = struct.Struct("!16sI")
SECRET_BYTES = 16
JOIN_SECONDS = 300.0
"""How long rank 0 waits for the others: they import torch, perhaps from a cold disk."""
POLL_SECONDS = 0.1
GREETING_SECONDS = 5.0
QUIET_SECONDS = 10
"""A connection that is quiet for so long is probed; three lost probes, 5 s apart, end it."""

Lost = Callable[[int], None]
"""Told of the rank that is gone, on a thread of the links."""


def connect(host: str, port: int, secret: bytes, rank: int) -> Link:
    """A rank's own link to rank 0. Raises StartupError where nobody answers."""
    try:
        connection = socket.create_connection((host, port), timeout=JOIN_SECONDS)
        connection.sendall(GREETING.pack(secret, rank))
    except OSError as error:
        raise StartupError(f"rank {rank} does not reach rank 0 at {host} port {port}") from error
    return Link(_tuned(connection))


def listen(host: str) -> socket.socket:
    """A socket of rank 0 for the others, on a free port. Raises StartupError."""
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, 0), family=family)
    except OSError as error:
        raise StartupError(
            f"rank 0 cannot listen on {host}; MASTER_ADDR must be an address of its machine"
        ) from error


def accept(
    listener: socket.socket, secret: bytes, size: int, check: Callable[[], None], seconds: float
) -> Links:
    """Rank 0's links, once all `size - 1` others have come. Whoever shows no secret is turned away.

    `check` runs now and then, to raise what ends the waiting. Raises StartupError after so many seconds.
    """
    listener.settimeout(POLL_SECONDS)
    found: dict[int, socket.socket] = {}
    deadline = time.monotonic() + seconds
    while len(found) < size - 1:
        check()
        if time.monotonic() > deadline:
            raise StartupError(f"{size - 1 - len(found)} of {size} ranks did not come")
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        rank = _greeted(connection, secret)
        if rank is None or not 1 <= rank < size or rank in found:
            connection.close()
        else:
            found[rank] = _tuned(connection)
    return Links(found)


def _greeted(connection: socket.socket, secret: bytes) -> int | None:
    """The rank of who connects; None for a stranger."""
    connection.settimeout(GREETING_SECONDS)
    try:
        shown, rank = GREETING.unpack(_read(connection, GREETING.size))
    except OSError:
        return None
    return int(rank) if hmac.compare_digest(shown, secret) else None


def _tuned(connection: socket.socket) -> socket.socket:
    """No delay for small messages, and an end to a connection whose other machine is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("KEEPIDLE", QUIET_SECONDS), ("KEEPINTVL", 5), ("KEEPCNT", 3)):
        option = getattr(socket, f"TCP_{name}", None)
        if option is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
    return connection


def _read(connection: socket.socket, size: int) -> bytes:
    """So many bytes. Raises OSError when the connection ends before."""
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise ConnectionError("the connection ended")
        parts += part
    return bytes(parts)


class Links:
    """Rank 0's connections. One thread sends; another watches for a rank that ends."""

    def __init__(self, connections: dict[int, socket.socket]) -> None:
        self._connections = connections
        self._ending = False
        self._watching: threading.Thread | None = None

    def send(self, operation: int, payload: bytes) -> None:
        """Sends to every other rank. Raises OSError where one is gone."""
        message = HEADER.pack(operation, len(payload)) + payload
        for connection in self._connections.values():
            connection.sendall(message)

    def watch(self, lost: Lost) -> None:
        """Tells `lost` of every rank that ends from now on, up to `end` or `abandon`."""
        self._watching = threading.Thread(
            target=self._watch, args=(lost,), name="outrider-ranks", daemon=True
        )
        self._watching.start()

    def abandon(self, end_others: Callable[[], None]) -> None:
        """Tells of no rank any more, ends those that this one can end, and cuts every connection: whoever is
        left hears that this one is gone, and says so."""
        self._ending = True
        end_others()
        for connection in self._connections.values():
            with suppress(OSError):  # the other side may have closed it
                connection.shutdown(socket.SHUT_RDWR)
        if self._watching is not None:
            self._watching.join()
        for connection in self._connections.values():
            connection.close()

    def end(self, operation: int, seconds: float) -> bool:
        """Sends a last operation and waits for all to close; False where some do not in time."""
        self._ending = True
        self.send(operation, b"")
        assert self._watching is not None, "watch() comes before the end"
        self._watching.join(seconds)
        return not self._watching.is_alive()

    def _watch(self, lost: Lost) -> None:
        open_links = {link: rank for rank, link in self._connections.items()}
        while open_links:
            readable, _, _ = select.select(list(open_links), [], [])
            for link in readable:
                rank = open_links.pop(link)
                link.close()
                if not self._ending:
                    lost(rank)


class Link:
    """Another rank's connection to rank 0. One thread reads it; another takes what was read."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._messages: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()

    def watch(self, last: int, lost: Lost) -> None:
        """Reads from now on, up to the operation `last`; tells `lost` when rank 0 ends before it."""
        threading.Thread(
            target=self._watch, args=(last, lost), name="outrider-ranks", daemon=True
        ).start()

    def take(self) -> tuple[int, bytes]:
        """The next operation and its payload; waits for it, however long."""
        return self._messages.get()

    def close(self) -> None:
        """Tells rank 0 that this rank has ended as it was told to."""
        self._connection.close()

    def _watch(self, last: int, lost: Lost) -> None:
        operation = None
        while operation != last:
            try:
                operation, size = HEADER.unpack(_read(self._connection, HEADER.size))
                payload = _read(self._connection, size)
            except OSError:
                lost(0)
                return
            self._messages.put((operation, payload))
