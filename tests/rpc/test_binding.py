"""A server takes its address from nobody who lives, and only from what is a socket."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from outrider_server.address import Listen
from outrider_server.core.errors import StartupError
from outrider_server.rpc.binding import check_free, claimed
from outrider_server.rpc.channels import open_channel
from outrider_server.rpc.serve import Server

from .service import NAME


async def test_a_second_server_leaves_a_path_to_the_one_that_serves_there(tmp_path: Path) -> None:
    first, second = Server((NAME,)), Server((NAME,))
    address = await first.start(f"unix:{tmp_path}/s")
    with pytest.raises(StartupError, match="another server does"):
        check_free(Listen.read(address))
    with pytest.raises(StartupError, match="another server does"):
        await second.start(address)
    async with open_channel(address) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    await first.drain(0)
    await second.start(address)
    await second.drain(0)


async def test_the_socket_of_a_dead_server_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "s"))
        dead.listen()
    server = Server((NAME,))
    assert await server.start(f"unix:{tmp_path}/s") == f"unix:{tmp_path}/s"
    await server.drain(0)


def test_a_server_that_has_too_many_waiting_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("outrider_server.rpc.binding.ANSWER_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(tmp_path / "s"))
        busy.listen(0)
        waiting.connect(str(tmp_path / "s"))
        with pytest.raises(StartupError, match="another server does"):
            check_free(Listen.read(f"unix:{tmp_path}/s"))


@pytest.mark.parametrize("place", ["file", "folder", "missing/s", "file/s"])
def test_what_is_no_place_for_a_socket_is_refused_and_left_as_it_is(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StartupError, match="cannot listen on"):
        check_free(Listen.read(f"unix:{tmp_path}/{place}"))
    assert (tmp_path / "file").read_text() == "kept"
    assert not (tmp_path / "missing").exists()


def test_while_one_binds_at_a_path_another_waits(tmp_path: Path) -> None:
    with claimed(Listen.read(f"unix:{tmp_path}/s")):
        folder = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(folder)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_taken_port_is_found_and_its_server_is_not_disturbed(host: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match="another server does"):
            check_free(Listen.read(f"{host}:{port}"))
        taken.settimeout(0.1)
        with pytest.raises(TimeoutError):
            taken.accept()
    check_free(Listen.read(f"{host}:{port}"))


@pytest.mark.parametrize("listen", ["192.0.2.1:7700", "no.such.host.invalid:7700"])
def test_an_address_that_this_machine_does_not_have_is_refused(listen: str) -> None:
    with pytest.raises(StartupError, match="cannot listen on"):
        check_free(Listen.read(listen))


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets")
def test_a_taken_abstract_name_is_found() -> None:
    place = Listen.read("unix-abstract:outrider-test-of-names")
    check_free(place)
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind("\0" + place.name)
        with pytest.raises(StartupError, match="another server does"):
            check_free(place)
