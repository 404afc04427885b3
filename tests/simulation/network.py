"""The network: addresses, links that delay, hold or break, and who notices when.

Owns connections between processes. Within one call messages stay in order, as on one TCP connection;
between calls nothing is ordered. A partition holds messages back; who waits longer than its keepalive gives
the call up, the other end goes on until it notices itself. Knows no gRPC.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .clock import Process, VirtualLoop

SERVICE_KEEPALIVE_SECONDS = 4.0
CLIENT_KEEPALIVE_SECONDS = 30.0
Name = tuple[str, str]


@dataclass(slots=True, eq=False)
class Direction:
    """One direction of a connection."""

    receiver: Process
    held: deque[Callable[[], None]] = field(default_factory=deque)
    last_arrival: float = 0.0


class Connection:
    """What two processes say to each other in one call. Each end is told once that it is broken."""

    def __init__(
        self, network: Network, near: Process, far: Process, keepalive_seconds: float
    ) -> None:
        self.near, self.far = near, far
        self.keepalive_seconds = keepalive_seconds
        self.to_far, self.to_near = Direction(far), Direction(near)
        self.near_broken: Callable[[], None] | None = None
        self.far_broken: Callable[[], None] | None = None
        self.open = True
        self._network = network
        network.connections[self] = None

    @property
    def link(self) -> Name:
        """The link that it runs over."""
        return link_of(self.near.name, self.far.name)

    def send(self, direction: Direction, deliver: Callable[[], None]) -> None:
        """Delivers to the other end, after what was sent before."""
        if self.open:
            self._network.transmit(self, direction, deliver)

    def close(self) -> None:
        """Nothing arrives any more; both ends know."""
        self.open = False
        self._network.connections.pop(self, None)

    def break_near(self) -> None:
        """The caller's end notices."""
        tell, self.near_broken = self.near_broken, None
        if tell is not None:
            self.near.post(tell)

    def break_far(self) -> None:
        """The server's end notices."""
        tell, self.far_broken = self.far_broken, None
        if tell is not None:
            self.far.post(tell)


def link_of(one: str, other: str) -> Name:
    """The link between two processes, named alike from both ends."""
    return (one, other) if one < other else (other, one)


class Network:
    """All links. Delays are drawn from `randomness`."""

    def __init__(self, loop: VirtualLoop, randomness: random.Random, longest_delay: float) -> None:
        self.processes: dict[str, Process] = {}
        self.connections: dict[Connection, None] = {}
        self._loop = loop
        self._random = randomness
        self._longest_delay = longest_delay
        self._partitions: dict[Name, int] = {}
        self._slow: dict[str, float] = {}

    def delay(self, *names: str) -> float:
        """Seconds that a message takes now: mostly little, sometimes much."""
        drawn = self._random.random()
        usual = self._longest_delay * drawn**4
        return 1e-4 + usual + sum(self._slow.get(name, 0.0) for name in names) * drawn

    def transmit(self, connection: Connection, way: Direction, deliver: Callable[[], None]) -> None:
        """Delivers after a delay, in order; holds it back while the link is partitioned."""
        now = self._loop.time()
        near, far = connection.near.name, connection.far.name
        # Timers of one time run in any order.
        way.last_arrival = max(way.last_arrival + 1e-7, now + self.delay(near, far))
        self._loop.later(way.last_arrival, self._arrive, connection, way, deliver)

    def _arrive(self, connection: Connection, way: Direction, deliver: Callable[[], None]) -> None:
        if not connection.open or not way.receiver.alive:
            return
        if way.held or self._partitions.get(connection.link):
            way.held.append(deliver)
        else:
            way.receiver.post(deliver)

    def partition(self, one: str, other: str, seconds: float) -> None:
        """Cuts a link for a while."""
        link = link_of(one, other)
        self._partitions[link] = self._partitions.get(link, 0) + 1
        for connection in self._over(link):
            self._give_up_unless(connection, lambda: not self._partitions.get(link))
        self._loop.later(self._loop.time() + seconds, self._heal, link)

    def is_cut(self, one: str, other: str) -> bool:
        """True while nothing passes between two processes."""
        return bool(self._partitions.get(link_of(one, other)))

    def _heal(self, link: Name) -> None:
        self._partitions[link] -= 1
        if self._partitions[link]:
            return
        for connection in self._over(link):
            if connection.near_broken is None or connection.far_broken is None:
                self.sever(connection)  # one end has given up and resets the other
                continue
            for way in (connection.to_far, connection.to_near):
                held, way.held = way.held, deque()
                for deliver in held:
                    way.receiver.post(deliver)

    def slow(self, name: str, extra_seconds: float, seconds: float) -> None:
        """Makes a process slow to be reached for a while."""
        self._slow[name] = extra_seconds
        self._loop.later(self._loop.time() + seconds, self._slow.pop, name, None)

    def freeze(self, process: Process, seconds: float) -> None:
        """Stops a process for a while; nobody is told."""
        if not process.alive or process.frozen:
            return
        process.frozen = True
        for connection in list(self.connections):
            if process is connection.far:
                self._near_gives_up_unless(connection, lambda: not process.frozen)
            elif process is connection.near:
                self._far_gives_up_unless(connection, lambda: not process.frozen)
        self._loop.later(self._loop.time() + seconds, process.thaw)

    def crash(self, process: Process, silent: bool) -> None:
        """Kills a process. Its peers are told at once, or, where its host is lost, find out themselves."""
        process.alive = False
        if self.processes.get(process.name) is process:
            del self.processes[process.name]
        for connection in list(self.connections):
            if process not in (connection.near, connection.far):
                continue
            if silent:
                self._give_up_unless(connection, lambda: False)
            else:
                delay = self.delay(connection.near.name, connection.far.name)
                self._loop.later(self._loop.time() + delay, self.sever, connection)

    def sever(self, connection: Connection) -> None:
        """Breaks a connection; both ends that live notice, or, behind a partition, when they give up."""
        if not connection.open:
            return
        if self._partitions.get(connection.link):
            self._give_up_unless(connection, lambda: False)
            return
        connection.break_near()
        connection.break_far()
        connection.close()

    def _give_up_unless(self, connection: Connection, well: Callable[[], bool]) -> None:
        """Each end gives a connection up after its keepalive, unless all is well again by then."""
        self._near_gives_up_unless(connection, well)
        self._far_gives_up_unless(connection, well)

    def _near_gives_up_unless(self, connection: Connection, well: Callable[[], bool]) -> None:
        seconds = connection.keepalive_seconds
        self._give_up_after(seconds, connection, connection.break_near, well)

    def _far_gives_up_unless(self, connection: Connection, well: Callable[[], bool]) -> None:
        self._give_up_after(SERVICE_KEEPALIVE_SECONDS, connection, connection.break_far, well)

    def _give_up_after(
        self,
        seconds: float,
        connection: Connection,
        break_end: Callable[[], None],
        well: Callable[[], bool],
    ) -> None:
        def give_up() -> None:
            if not connection.open or well():
                return
            break_end()
            if not self._partitions.get(connection.link):
                self.sever(connection)  # the other end is reset

        self._loop.later(self._loop.time() + seconds, give_up)

    def _over(self, link: Name) -> list[Connection]:
        return [connection for connection in self.connections if connection.link == link]
