"""Addresses: what gRPC would take for something else is refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import outrider
import pytest
from outrider._address import LONGEST_PATH
from outrider_server.address import Listen, read_peer
from outrider_server.commands.up import socket_folder
from outrider_server.config import DraftConfig, SessionConfig, TargetConfig
from outrider_server.core.errors import StartupError

NOT_TO_LISTEN_AT = (
    "127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:+5", "127.0.0.1: 0", "localhost:http", "none", "localhost",
    "", ":7700", "::1:7700", "ipv4:127.0.0.1:0", "dns:///localhost:7700", "http://localhost:7700",
    "unix:", "unix://", "unix://host/x", "unix:a,b", "unix:a%2Cb", "unix:a?b", "unix:a#b", "unix:a%00",
    "unix:" + "x" * (LONGEST_PATH + 1), "unix-abstract:", "unix-abstract:a,b",
)  # fmt: skip
NO_SERVICES = (
    "127.0.0.1:99999", "127.0.0.1:0", "none", "localhost", "", "::1:7700", "http://localhost:7700",
    "dns:///host", "dns:host", "dns:///host:99999", "ipv4:127.0.0.1", "unix:", "unix:a?b", "unix-abstract:",
    "a b:1", "[::1]", "[:::::]:1", "ipv4:localhost:1", "ipv6:127.0.0.1:1", "foo:///bar:1", "xds:", "xds:///",
)  # fmt: skip
SERVICES = (
    "127.0.0.1:7710", "target:7710", "[::1]:7710", "[fe80::1%eth0]:7710", "dns:target:7710",
    "dns:///target:7710", "dns://1.1.1.1/target:7710", "ipv4:127.0.0.1:7710", "ipv6:[::1]:7710",
    "unix:relative", "unix:/run/target", "unix:/a%20b%23", "unix-abstract:target",
    "xds:///target", "google-c2p:///target", "vsock:1:2",
)  # fmt: skip


@pytest.mark.parametrize("text", NOT_TO_LISTEN_AT)
def test_what_is_no_address_to_listen_at_is_refused_when_it_is_configured(text: str) -> None:
    for configure in (TargetConfig, DraftConfig):
        with pytest.raises(StartupError):
            configure(listen=text)
    with pytest.raises(StartupError):
        SessionConfig(ledger="x", listen=text)


@pytest.mark.parametrize("text", NO_SERVICES)
def test_what_is_no_address_of_a_service_is_refused_when_it_is_configured(text: str) -> None:
    with pytest.raises(StartupError):
        SessionConfig(ledger="x", targets=("127.0.0.1:1", text))
    with pytest.raises(StartupError):
        SessionConfig(ledger="x", drafts=(text,))


@pytest.mark.parametrize("kind", [outrider.AsyncClient, outrider.Client])
@pytest.mark.parametrize("text", NO_SERVICES)
def test_what_is_no_address_of_a_service_is_refused_when_a_client_is_made(
    text: str, kind: type[outrider.Client]
) -> None:
    with pytest.raises(outrider.InvalidRequestError) as caught:
        kind(text)
    assert caught.value.field == "target"


@pytest.mark.parametrize("text", [*SERVICES, "ipv4:127.0.0.1:1,127.0.0.2:1"])
def test_a_client_takes_what_grpc_connects_to_as_it_is(text: str) -> None:
    assert outrider.AsyncClient(text)._channel._target == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the address is empty; write HOST:PORT, [IPV6]:PORT or unix:PATH"),
        ("localhost", "localhost has no port; write HOST:PORT, [IPV6]:PORT or unix:PATH"),
        ("[::1]", "[::1] has no port; write HOST:PORT, [IPV6]:PORT or unix:PATH"),
        ("a b:1", "a b:1 is no address; write HOST:PORT, [IPV6]:PORT or unix:PATH"),
        ("a:99999", "a:99999 has no port that exists; ports are 1 to 65535"),
        ("ipv4:a:1", "ipv4:a:1 is no address: ipv4: goes with numbers, not with a"),
    ],
)
def test_a_refusal_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(outrider.InvalidRequestError) as caught:
        outrider.Client(text)
    with pytest.raises(StartupError) as refused:
        read_peer(text)
    assert caught.value.message == str(refused.value) == message


@pytest.mark.parametrize("text", SERVICES)
def test_what_grpc_connects_to_is_taken_as_it_is(text: str) -> None:
    assert read_peer(text) == text


def test_a_path_is_read_as_grpc_reads_it_and_written_so_that_clients_read_the_same() -> None:
    assert Listen.read("unix:/tmp/a%20b").path == "/tmp/a b"
    assert Listen.read("unix:/tmp/a b").text == "unix:/tmp/a%20b" == read_peer("unix:/tmp/a b")
    assert Listen.read("unix:///tmp/a").text == "unix:/tmp/a"
    assert Listen.read("unix:~/a").path == str(Path.home() / "a")
    assert outrider.AsyncClient("unix:~/a b")._channel._target == f"unix:{Path.home()}/a%20b"


def test_a_bound_port_stands_in_the_address() -> None:
    assert Listen.read("[::1]:0").with_port(7) == "[::1]:7"
    assert Listen.read("localhost:0").with_port(7) == "localhost:7"
    assert Listen.read("unix:/tmp/a").with_port(1) == "unix:/tmp/a"


@pytest.mark.parametrize("name", ["a,b", "a#b", "a?b", "a%b", "a b", "x" * 90, "plain"])
def test_the_sockets_of_up_have_addresses_whatever_the_folder_for_them_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with socket_folder() as found:
        assert Path(found).stat().st_mode & 0o077 == 0
        assert (
            Listen.read(f"unix:{found}/t").text == f"unix:{found}/t" == read_peer(f"unix:{found}/t")
        )
