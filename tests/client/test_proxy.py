"""Proxies of the environment: never for this machine, and told where a call that failed went through one."""

from __future__ import annotations

import outrider
import pytest
from outrider._proxy import is_local, proxy_note

OPEN = "http://user:secret@127.0.0.1:1"
"""A proxy that nobody runs."""


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("grpc_proxy", "https_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", OPEN)


async def test_this_machine_is_reached_without_a_proxy(address):
    async with outrider.AsyncClient(address) as client:
        assert (await client.describe()).version == "1.2.3"
    port = address.rpartition(":")[2]
    with outrider.Client(f"localhost:{port}") as client:
        assert client.describe().version == "1.2.3"


async def test_a_failure_names_the_proxy_on_the_way_and_not_its_password():
    async with outrider.AsyncClient("nowhere.invalid:7700") as client:
        with pytest.raises(outrider.UnavailableError) as caught:
            await client.describe()
    assert "refused" in caught.value.message
    assert caught.value.message.endswith(
        "(through the proxy http://127.0.0.1:1 of http_proxy; a host in no_proxy is reached without)"
    )


@pytest.mark.parametrize("way", ["no_proxy", "option"])
async def test_a_proxy_can_be_left_out(monkeypatch, way):
    options = [("grpc.enable_http_proxy", 0)] if way == "option" else []
    if way == "no_proxy":
        monkeypatch.setenv("no_proxy", ".invalid")
    async with outrider.AsyncClient(
        "nowhere.invalid:7700", channel_options=options, timeout_ms=20_000
    ) as client:
        with pytest.raises((outrider.UnavailableError, outrider.DeadlineError)) as caught:
            await client.describe()
    assert "refused" not in caught.value.message
    assert "proxy" not in caught.value.message


@pytest.mark.parametrize(
    "target",
    [
        *("127.0.0.1:7700", "127.8.9.1:1", "localhost:1", "a.localhost:1", "[::1]:7700"),
        *("unix:/a/b", "unix:///a/b", "ipv4:127.0.0.1:7", "dns:///localhost:7", "ipv6:[::1]:7"),
    ],
)
def test_addresses_of_this_machine_are_known(target):
    assert is_local(target)
    assert proxy_note(target, {"http_proxy": OPEN}) == ""


@pytest.mark.parametrize(
    ("target", "environment", "proxy"),
    [
        ("a.example:1", {}, None),
        ("a.example:1", {"http_proxy": "http://p:3"}, "http://p:3 of http_proxy"),
        ("10.0.0.1:1", {"http_proxy": "http://p:3"}, "http://p:3 of http_proxy"),
        ("[2001:db8::1]:1", {"http_proxy": "http://p:3"}, "http://p:3 of http_proxy"),
        (
            "dns:///a.example:1",
            {"http_proxy": "http://p:3", "https_proxy": "http://q:4"},
            "http://q:4 of https_proxy",
        ),
        (
            "a.example:1",
            {"https_proxy": "http://q:4", "grpc_proxy": "http://u:pw@r:5"},
            "http://r:5 of grpc_proxy",
        ),
        ("a.example:1", {"http_proxy": "http://p:3", "no_proxy": "b.example, .example"}, None),
        ("10.0.0.1:1", {"http_proxy": "http://p:3", "no_proxy": "10.0.0.0/8"}, None),
        (
            "10.0.0.1:1",
            {"http_proxy": "http://p:3", "no_proxy": "11.0.0.0/8"},
            "http://p:3 of http_proxy",
        ),
        (
            "a.example:1",
            {"http_proxy": "http://p:3", "no_grpc_proxy": "b", "no_proxy": "a.example"},
            "http://p:3 of http_proxy",
        ),
    ],
)
def test_the_proxy_is_the_one_that_grpc_takes(target, environment, proxy):
    note = proxy_note(target, environment)
    assert note.startswith(f" (through the proxy {proxy};" if proxy else "")
    assert bool(note) is bool(proxy)
