"""The links between ranks: messages in order, no strangers, and news of an end on either side."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest
from outrider_server.core.errors import StartupError
from outrider_server.engine.ranks.links import SECRET_BYTES, Link, Links, accept, connect, listen

HOST = "127.0.0.1"
SECRET = bytes(range(SECRET_BYTES))
STOP = 9
WAIT_SECONDS = 30.0


def nothing() -> None:
    """No reason to stop waiting; nobody to end."""


def taken(link: Link) -> tuple[int, bytes]:
    """The link's next message; fails the test where none comes."""
    found: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
    threading.Thread(target=lambda: found.put(link.take()), daemon=True).start()
    return found.get(timeout=WAIT_SECONDS)


class Linked:
    """Rank 0's links and those of the others, in one process; `lost` tells what each side heard."""

    def __init__(self, size: int) -> None:
        self.lost: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()
        self.others: dict[int, Link] = {}
        with listen(HOST) as listener:
            port = listener.getsockname()[1]
            threads = [
                threading.Thread(target=self._connect, args=(port, rank)) for rank in range(1, size)
            ]
            for thread in threads:
                thread.start()
            self.links: Links = accept(listener, SECRET, size, nothing, WAIT_SECONDS)
            for thread in threads:
                thread.join()

    def _connect(self, port: int, rank: int) -> None:
        self.others[rank] = connect(HOST, port, SECRET, rank)

    def watch(self) -> None:
        self.links.watch(lambda rank: self.lost.put(("rank 0", rank)))
        for own, link in self.others.items():
            link.watch(STOP, lambda rank, own=own: self.lost.put((f"rank {own}", rank)))

    def close(self) -> None:
        self.links.abandon(nothing)
        for link in self.others.values():
            link.close()


@pytest.fixture
def three() -> Iterator[Linked]:
    with closing(Linked(3)) as linked:
        yield linked


def test_every_rank_gets_every_message_in_order(three: Linked) -> None:
    three.watch()
    large = bytes(range(256)) * 4096
    for operation, payload in ((1, b""), (2, large), (1, b"x"), (STOP, b"")):
        three.links.send(operation, payload)
    for link in three.others.values():
        got = [taken(link) for _ in range(4)]
        assert got == [(1, b""), (2, large), (1, b"x"), (STOP, b"")]
    assert three.lost.empty()


def test_rank_0_hears_which_rank_ended(three: Linked) -> None:
    three.links.watch(lambda rank: three.lost.put(("rank 0", rank)))
    three.others[2].close()
    assert three.lost.get(timeout=WAIT_SECONDS) == ("rank 0", 2)


def test_the_others_hear_that_rank_0_ended_but_not_after_they_were_told_to_stop() -> None:
    with closing(Linked(2)) as told, closing(Linked(2)) as left:
        told.watch()
        left.watch()
        told.links.send(STOP, b"")
        assert taken(told.others[1]) == (STOP, b"")
        told.links.abandon(nothing)
        left.links.abandon(nothing)
        assert left.lost.get(timeout=WAIT_SECONDS) == ("rank 1", 0)
        assert all(side != "rank 1" for side in drained(told.lost))


def test_rank_0_ends_the_others_before_they_can_hear_that_it_is_gone(three: Linked) -> None:
    three.watch()

    def end_rank_1() -> None:
        time.sleep(0.2)
        assert three.lost.empty(), "the links are whole while a rank lives that is to be ended"
        three.others[1]._connection.shutdown(socket.SHUT_RDWR)

    three.links.abandon(end_rank_1)
    heard = {three.lost.get(timeout=WAIT_SECONDS) for _ in range(2)}
    assert heard == {("rank 1", 0), ("rank 2", 0)}, "who is left hears it, rank 0 minds no end"
    assert three.lost.empty()


def drained(heard: queue.SimpleQueue[tuple[str, int]]) -> list[str]:
    found = []
    while not heard.empty():
        found.append(heard.get()[0])
    return found


def test_the_end_waits_until_every_rank_has_closed_and_tells_of_none(three: Linked) -> None:
    three.watch()

    def follow(link: Link) -> None:
        assert taken(link) == (STOP, b"")
        link.close()

    followers = [threading.Thread(target=follow, args=(link,)) for link in three.others.values()]
    for follower in followers:
        follower.start()
    assert three.links.end(STOP, WAIT_SECONDS)
    assert three.lost.empty()
    for follower in followers:
        follower.join()


def test_the_end_says_so_where_a_rank_does_not_close(three: Linked) -> None:
    three.watch()
    assert not three.links.end(STOP, 0.01)


def test_a_stranger_and_a_rank_that_is_there_already_are_turned_away() -> None:
    with listen(HOST) as listener:
        port = listener.getsockname()[1]
        first = connect(HOST, port, SECRET, 1)
        wrong = [connect(HOST, port, bytes(SECRET_BYTES), 2), connect(HOST, port, SECRET, 1)]
        outside = [connect(HOST, port, SECRET, 3), connect(HOST, port, SECRET, 0)]
        silent = socket.create_connection((HOST, port))
        silent.close()
        second = connect(HOST, port, SECRET, 2)
        links = accept(listener, SECRET, 3, nothing, WAIT_SECONDS)
    links.send(STOP, b"mine")
    for link in (first, second):
        link.watch(STOP, lambda rank: None)
        assert taken(link) == (STOP, b"mine")
    for link in (first, second, *wrong, *outside):
        link.close()
    links.abandon(nothing)


def test_waiting_ends_with_what_the_check_raises_or_when_the_time_is_up() -> None:
    def child_ended() -> None:
        raise StartupError("rank 1 ended")

    with listen(HOST) as listener:
        with pytest.raises(StartupError, match="rank 1 ended"):
            accept(listener, SECRET, 2, child_ended, WAIT_SECONDS)
        with pytest.raises(StartupError, match="1 of 2 ranks did not come"):
            accept(listener, SECRET, 2, nothing, -1.0)


def test_an_address_of_another_machine_and_a_rank_0_that_is_gone_are_named() -> None:
    with pytest.raises(StartupError, match="MASTER_ADDR must be an address of its machine"):
        listen("192.0.2.1")
    with listen(HOST) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(StartupError, match=f"does not reach rank 0 at {HOST} port {port}"):
        connect(HOST, port, SECRET, 1)
