"""Names that stand for several addresses, with a resolver and pauses of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from outrider_server.core.errors import StartupError, Unavailable
from outrider_server.session.peers import addresses as addresses_module
from outrider_server.session.peers.addresses import Addresses, joined, resolve, split_name


class Zone:
    """A resolver whose records the test sets; a host without any is an error."""

    def __init__(self, **records: list[str]) -> None:
        self.records = records
        self.asked: list[tuple[str, int]] = []

    async def resolve(self, host: str, port: int) -> list[str]:
        self.asked.append((host, port))
        if host not in self.records:
            raise OSError("Name or service not known")
        return self.records[host]


@pytest.mark.parametrize("address", ["127.0.0.1:7710", "unix:/run/target", "host:7710"])
async def test_what_is_no_name_is_used_as_it_is(address: str) -> None:
    zone = Zone()
    addresses = Addresses([address], zone.resolve)
    assert not addresses.have_names
    assert await addresses.look_up() == (address,)
    assert zone.asked == []


@pytest.mark.parametrize(
    "address", ["dns:///", "dns:///host", "dns:///:7710", "dns:///host:", "dns:///host:0"]
)
def test_a_name_without_host_or_port_is_refused(address: str) -> None:
    with pytest.raises(StartupError, match="write dns:///HOST:PORT"):
        Addresses([address])


@pytest.mark.parametrize("port", ["65536", "-1", "x", "7710x", "²"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(StartupError):
        split_name(f"dns:///host:{port}")


async def test_a_name_stands_for_all_its_addresses_each_once() -> None:
    zone = Zone(target=["10.0.0.2", "10.0.0.1", "10.0.0.2", "fd00::1"], other=["10.0.0.1"])
    given = ["unix:/run/target", "dns:///target:7710", "dns:///other:7710"]
    assert await Addresses(given, zone.resolve).look_up() == (
        "unix:/run/target",
        "10.0.0.1:7710",
        "10.0.0.2:7710",
        "[fd00::1]:7710",
    )
    assert zone.asked == [("target", 7710), ("other", 7710)]


async def test_a_name_that_fails_keeps_what_it_had() -> None:
    zone = Zone(target=["10.0.0.1"])
    addresses = Addresses(["dns:///target:1"], zone.resolve)
    assert await addresses.look_up() == ("10.0.0.1:1",)
    zone.records["target"] = []
    assert await addresses.look_up() == ("10.0.0.1:1",)
    del zone.records["target"]
    assert await addresses.look_up() == ("10.0.0.1:1",)
    zone.records["target"] = ["10.0.0.9"]
    assert await addresses.look_up() == ("10.0.0.9:1",)


async def test_a_name_that_fails_is_told_of_once_each_time(caplog) -> None:
    zone = Zone()
    addresses = Addresses(["dns:///target:1"], zone.resolve)
    for records in ({}, {}, {"target": ["10.0.0.1"]}, {}, {}):
        zone.records = records
        await addresses.look_up()
    assert caplog.messages == ["dns:///target:1 cannot be resolved: Name or service not known"] * 2


async def test_a_name_that_never_had_an_address_is_said_to_have_none() -> None:
    with pytest.raises(Unavailable, match="could be resolved"):
        await Addresses(["dns:///target:1"], Zone().resolve).first(0.01)


async def test_every_look_is_told_and_pauses_lie_between() -> None:
    zone, told = Zone(target=["10.0.0.1"]), []
    failed, pauses = asyncio.Event(), []
    addresses = Addresses(["dns:///target:1"], zone.resolve)

    async def move_to(found: Sequence[str]) -> None:
        told.append(len(found))

    async def pause(event: asyncio.Event) -> None:
        assert event is failed
        assert len(told) == len(pauses)
        pauses.append(event)
        zone.records["target"].append(f"10.0.0.{len(pauses) + 1}")
        if len(pauses) == 4:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await addresses.follow(move_to, failed, pause)
    assert told == [2, 3, 4]


async def test_a_failure_ends_a_pause_and_so_does_time() -> None:
    failed = asyncio.Event()
    waiting = asyncio.create_task(addresses_module.pause(failed, 0.0, 1000.0))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    failed.set()
    await waiting
    assert not failed.is_set()
    await addresses_module.pause(failed, 0.0, 0.0)


async def test_nothing_is_followed_where_there_is_no_name() -> None:
    async def never(_: object) -> None:
        raise AssertionError

    await Addresses(["127.0.0.1:1"]).follow(never, asyncio.Event(), never)


async def test_the_systems_resolver_is_asked() -> None:
    found = [joined(ip, 7710) for ip in await resolve("localhost", 7710)]
    assert {"127.0.0.1:7710", "[::1]:7710"} & set(found)


def test_brackets_of_an_address_in_numbers_are_not_part_of_it() -> None:
    assert split_name("dns:///[::1]:7710") == ("::1", 7710)
